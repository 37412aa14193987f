# shellcheck shell=bash
# Bash completion for zoodip, loaded by bash-completion or by `source`. Candidates come from the program's own --help: commands,
# their options and config keys. Where there are none, bash completes file names.

# Offers the lines of standard input that begin with $1.
_zoodip_offer() {
    local line
    while IFS= read -r line; do
        [[ $line != "$1"* ]] || COMPREPLY+=("$line")
    done
}

# The values of the config key $1: those that the help text $2 lists in parentheses, or true and false for a switch.
_zoodip_values() {
    awk -v key="$1" '
        $1 == key && match($0, /\([a-z0-9_]+(, [a-z0-9_]+)+\)$/) {
            values = substr($0, RSTART + 1, RLENGTH - 2)
            gsub(", ", "\n", values)
            print values
        }
        last == key && /^ +default (true|false)$/ { print "true\nfalse" }
        { last = $1 }' <<<"$2"
}

_zoodip() {
    local program=${1/#\~\//$HOME/} at=$COMP_CWORD current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} key='' before help
    COMPREPLY=()
    # bash splits NAME=VALUE into three words
    if [ "$current" = = ]; then
        current='' at=$((at - 1)) key=${COMP_WORDS[at]}
    elif [ "$at" -gt 2 ] && [ "${COMP_WORDS[at - 1]}" = = ]; then
        at=$((at - 2)) key=${COMP_WORDS[at]}
    fi
    before=${COMP_WORDS[at - 1]}
    [[ $key != --* ]] || before=$key # --model=DIR is --model DIR

    if [ "$at" = 1 ] || { [ "$at" = 2 ] && [ "$command" = help ]; }; then
        # "  train   meaning" or "  zoodip help COMMAND   meaning"
        _zoodip_offer "$current" < <("$program" --help 2>/dev/null | sed -nE '/^example/q
            s/^  (zoodip )?([a-z]+)( [A-Z]+)?  +[^ ].*/\2/p')
        [[ $current != -* ]] || _zoodip_offer "$current" <<<$'--help\n--version'
        return
    fi

    if [ "$before" = --set ]; then
        help=$("$program" train --help 2>/dev/null | sed '1,/^config keys:/d')
        if [ -n "$key" ]; then
            _zoodip_offer "$current" < <(_zoodip_values "$key" "$help")
        else
            compopt -o nospace 2>/dev/null # fails outside a completion
            _zoodip_offer "$current" < <(sed -nE 's/^  ([a-z][a-z0-9_.]*)  .*/\1=/p' <<<"$help")
        fi
        return
    fi

    help=$("$program" "$command" --help 2>/dev/null)
    if [[ $current == -* ]]; then
        _zoodip_offer "$current" < <(sed -nE 's/^  (--[a-z-]+).*/\1/p' <<<"$help" && echo --help)
    elif [[ $before == --* && $help == *"  $before DIR "* ]]; then
        compopt -o filenames 2>/dev/null
        _zoodip_offer "$current" < <(compgen -d -- "$current")
    elif [[ $before == --* && $help == *"  $before DIR|FILE "* ]]; then
        compopt -o filenames 2>/dev/null
        _zoodip_offer "$current" < <(compgen -f -X '!*.safetensors' -- "$current"; compgen -d -- "$current")
    elif [[ $before != --* && $help == "usage: zoodip $command DIR "* ]]; then
        compopt -o filenames 2>/dev/null
        _zoodip_offer "$current" < <(compgen -d -- "$current")
    elif [[ ($before != --* || $help == *"  $before  "*) && ${help%%$'\n'*} == *.json* ]]; then
        compopt -o filenames 2>/dev/null
        _zoodip_offer "$current" < <(compgen -f -X '!*.json' -- "$current"; compgen -d -- "$current")
    fi
}
complete -o default -F _zoodip zoodip
