#!/usr/bin/env bash
# Writes zoodip's man page to standard output, generated from its --help texts.
#
#   launch/install/man.sh build/zoodip
set -euo pipefail
program=${1?PROGRAM is missing}

# The parts of a help text, by name: usage, body, examples, keys (config keys), codes (exit codes).
declare -A part
read_help() {
    local line name=body
    part=([usage]='' [body]='' [examples]='' [keys]='' [codes]='')
    while IFS= read -r line; do
        case $line in
            'usage: '*) name=usage line=${line#usage: } ;;
            example: | examples:) name=examples && continue ;;
            'config keys:') name=keys && continue ;;
            'exit codes: '*) name=codes line=${line#exit codes: } ;;
            '') name=body ;;
        esac
        [ -z "$line${part[$name]}" ] || part[$name]+=$line$'\n'
    done <<<"$1"
}

# A line of text with roff's special characters escaped.
plain() {
    local text=${1//\\/\\e}
    text=${text//-/\\-}
    text=${text//\'/\\(aq}
    text=${text//\`/\\(ga}
    text=${text//^/\\(ha}
    text=${text//\~/\\(ti}
    [[ $text != .* ]] || text="\\&$text"
    printf '%s' "$text"
}

# Text that roff may fill, folded into short lines.
prose() {
    local line
    while read -r line; do
        plain "$line" && echo
    done < <(fold -s -w 70 <<<"$1")
}

# Lines shown as they are, without their first two spaces.
verbatim() {
    local line
    printf '.RS 4\n.EX\n'
    while IFS= read -r line; do
        plain "${line#  }" && echo
    done
    printf '.EE\n.RE\n'
}

# Usage lines, each on a line of its own.
usage() {
    local line first=1
    while read -r line; do
        [ -n "$first" ] || echo '.br'
        printf '\\fB%s\\fR\n' "$(plain "$line")" && first=
    done
}

# Text with lists. An item is two spaces, a term, two or more spaces and its meaning, which may continue on lines indented
# further. Other indented lines are shown as they are. With an argument, the text continues a section that has begun.
body() {
    local line item='^  ([^ ]+( [^ ]+)*)  +([^ ].*)$' deeper='^( {3,})([^ ].*)$' column=0 new=${1-}
    while IFS= read -r line; do
        if [ -z "$line" ]; then
            column=0 new=1
        elif [[ $line =~ $item ]]; then
            column=$((${#line} - ${#BASH_REMATCH[3]}))
            printf '.TP\n\\fB%s\\fR\n%s\n' "$(plain "${BASH_REMATCH[1]}")" "$(prose "${BASH_REMATCH[3]}")"
        elif [ "$column" -gt 0 ] && [[ $line =~ $deeper ]]; then
            [ ${#BASH_REMATCH[1]} -le "$column" ] || echo '.br'
            prose "${BASH_REMATCH[2]}"
        elif [[ $line == '  '* ]]; then
            verbatim <<<"$line"
        else
            [ -z "$new" ] || echo '.PP'
            prose "$line"
            column=0 new=
        fi
    done
}

# Passes a text without its empty lines to a function.
shown_by() {
    sed '/^$/d' <<<"$2" | "$1"
}

help=$("$program" --help)
commands=$(sed -nE 's/^  ([a-z]+)  +[^ ].*/\1/p' <<<"$help")
version=$("$program" --version | sed -n '1s/^zoodip \([^ ,]*\).*/\1/p')
released=$(sed -n "s/^## $version - //p" "$(dirname "$0")/../../src/CHANGES.md")
read_help "$help"
description=${part[body]} usages=${part[usage]} examples=${part[examples]} codes=${part[codes]} keys='' sections=''
for command in $commands; do
    text=$("$program" "$command" --help)
    [[ $text == "usage: zoodip $command"* ]] || continue # it has no help of its own
    read_help "$text"
    usages+=${part[usage]} keys+=${part[keys]}
    sections+=$(
        echo ".SS zoodip $command"
        shown_by usage "${part[usage]}"
        body after <<<"${part[body]}"
        [ -z "${part[examples]}" ] || { printf '.PP\nExamples:\n' && shown_by verbatim "${part[examples]}"; }
    )$'\n'
done

cat <<END
.TH ZOODIP 1 "$released" "zoodip $version" "User Commands"
.ad l
.nh
.SH NAME
zoodip \- teach a Stable Diffusion model a new word, with forward passes only
.SH SYNOPSIS
$(shown_by usage "$usages")
.SH DESCRIPTION
$(body <<<"$description")
.SH COMMANDS
$sections
.SH CONFIG KEYS
$(body <<<"$keys")
.SH EXIT STATUS
$(sed -E 's/, ([0-9]+ )/\n\1/g; s/\n+$//' <<<"$codes" | sed -E '/^$/d; s/^([0-9]+) /  \1  /' | body)
.SH FILES
Paths below the installation prefix. The examples run in \fIshare/zoodip\fR;
relative paths in configs start from the folder in which the command runs.
.TP
\fIshare/zoodip/configs\fR
recipes, and a page on their keys
.TP
\fIshare/zoodip/dataset/toybox\fR
a tiny Stable Diffusion, and the toys that the examples learn
.TP
\fIshare/zoodip/launch/run.sh\fR
runs a command on several ranks
.TP
\fIshare/zoodip/launch/slurm\fR
batch scripts for Slurm
.TP
\fIshare/zoodip/README.md\fR
the manual
.SH EXAMPLES
$(shown_by verbatim "$examples")
.SH SEE ALSO
.BR mpirun (1)
END
