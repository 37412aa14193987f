# shellcheck shell=bash
# Completion of zoodip in bash: bash-completion finds it, `source` reads it. It asks the program itself what may follow: its
# --help names the commands, their options and the keys of a config. Where it has no answer, bash completes file names.

# Takes the lines of standard input that begin with $1 as answers.
_zoodip_answer() {
    local line
    while IFS= read -r line; do
        [[ $line != "$1"* ]] || COMPREPLY+=("$line")
    done
}

# The values of the config key $1 that the help text $2 lists in brackets, or those of a switch.
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
    # bash cuts NAME=VALUE into three words
    if [ "$current" = = ]; then
        current='' at=$((at - 1)) key=${COMP_WORDS[at]}
    elif [ "$at" -gt 2 ] && [ "${COMP_WORDS[at - 1]}" = = ]; then
        at=$((at - 2)) key=${COMP_WORDS[at]}
    fi
    before=${COMP_WORDS[at - 1]}
    [[ $key != --* ]] || before=$key # --model=DIR is --model DIR

    if [ "$at" = 1 ] || { [ "$at" = 2 ] && [ "$command" = help ]; }; then
        # lines of a command each, and of calls: "  zoodip help COMMAND"
        _zoodip_answer "$current" < <("$program" --help 2>/dev/null | sed -nE '/^example/q
            s/^  (zoodip )?([a-z]+)( [A-Z]+)?  +[^ ].*/\2/p')
        [[ $current != -* ]] || _zoodip_answer "$current" <<<$'--help\n--version'
        return
    fi

    if [ "$before" = --set ]; then
        help=$("$program" train --help 2>/dev/null | sed '1,/^config keys:/d')
        if [ -n "$key" ]; then
            _zoodip_answer "$current" < <(_zoodip_values "$key" "$help")
        else
            compopt -o nospace 2>/dev/null # called by hand there is nothing to set
            _zoodip_answer "$current" < <(sed -nE 's/^  ([a-z][a-z0-9_.]*)  .*/\1=/p' <<<"$help")
        fi
        return
    fi

    help=$("$program" "$command" --help 2>/dev/null)
    if [[ $current == -* ]]; then
        _zoodip_answer "$current" < <(sed -nE 's/^  (--[a-z-]+).*/\1/p' <<<"$help" && echo --help)
    elif [[ $before == --* && $help == *"  $before DIR "* ]]; then
        compopt -o filenames 2>/dev/null
        _zoodip_answer "$current" < <(compgen -d -- "$current")
    elif [[ ($before != --* || $help == *"  $before  "*) && ${help%%$'\n'*} == *.json* ]]; then
        compopt -o filenames 2>/dev/null
        _zoodip_answer "$current" < <(compgen -f -X '!*.json' -- "$current"; compgen -d -- "$current")
    fi
}
complete -o default -F _zoodip zoodip
