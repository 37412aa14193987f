#!/usr/bin/env bash
# Runs tests, after installing and building only what they need (launch/setup.sh --tests=...).
#
#   tests/run.sh                     everything
#   tests/run.sh --quick             the files that take a few seconds and need only numpy and pillow: a minute
#   tests/run.sh --nightly           everything, including what takes too long for every day
#   tests/run.sh tests/test_ops.py   files, folders, or FILE::TEST
#   tests/run.sh -k tokenizer        the tests of that name
#
# All other arguments go to pytest. Each test file says what it needs: tests/README.md.
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/.."

say() {
    echo "run.sh: $*" >&2
}

# The test files that the caller's names refer to, relative to the root of the checkout, from whichever folder.
files_of() {
    local named=${1%%::*} found
    for found in "$from/$named" "$named" "tests/$named"; do
        [ -e "$found" ] && break
    done
    if [ -d "$found" ]; then
        found=("$found"/test_*.py)
    fi
    [ -e "${found[0]}" ] || return 1
    realpath --relative-to=. "${found[@]}"
}

# The files in which a pytest -k expression may match: those with one of its words in their name or text.
# All files if it contains "not", or a word that is in none.
files_with() {
    local word with all
    all=$(printf '%s\n' tests/test_*.py)
    [ -n "$1" ] || { echo "$all" && return; }
    for word in $(tr -c '[:alnum:]_.-' ' ' <<<"$1"); do
        case $word in
            and | or) continue ;;
            not) with= ;;
            *) with=$({ grep -ilF -- "$word" tests/test_*.py || true; printf '%s\n' "$all" | grep -iF -- "$word" || true; } | sort -u) ;;
        esac
        [ -n "$with" ] || { echo "$all" && return; }
        echo "$with"
    done | sort -u
}

tier=all expression= named=() arguments=()
while [ $# != 0 ]; do
    case $1 in
        --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' tests/run.sh && exit 0 ;;
        --quick | --nightly) tier=${1#--} ;;
        -k) expression=${2-} && arguments+=("$1" "${2-}") && shift ;;
        # options whose value is the next argument, which may look like a file
        -[mcpoWrn] | --maxfail | --tb | --durations | --durations-min | --basetemp | --rootdir | --confcutdir | --ignore | \
            --ignore-glob | --deselect | --junit-xml | --junitxml | --log-file | --override-ini | --color | --capture | --import-mode)
            arguments+=("$1" "${2-}") && shift
            ;;
        -*) arguments+=("$1") ;;
        *)
            found=$(files_of "$1") || { say "$1: no such test file" && exit 2; }
            mapfile -t -O ${#named[@]} named <<<"$found"
            [[ $1 != *::* ]] || named[-1]+=::${1#*::}
            ;;
    esac
    shift || break
done

if [ $tier = quick ]; then
    [ ${#named[@]} = 0 ] || { say "--quick chooses the files itself" && exit 2; }
    mapfile -t named < <(grep -l '^QUICK = True' tests/test_*.py)
elif [ ${#named[@]} = 0 ]; then
    # the quick ones first
    mapfile -t named < <(files_with "$expression" | xargs grep -l '^QUICK = True'; files_with "$expression" | xargs grep -L '^QUICK = True')
fi
needs=$(printf '%s\n' "${named[@]%%::*}" | xargs -d '\n' sed -n 's/^NEEDS = "\(.*\)"$/\1/p' | tr -s ' ' '\n' | sort -u | paste -sd ,)
launch/setup.sh --tests="$needs"

# The tests write only into build/, and download nothing.
export HF_HOME=$PWD/build/hf HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 XDG_CACHE_HOME=$PWD/build/cache
export PYTHONDONTWRITEBYTECODE=1
[ $tier != nightly ] || export ZOODIP_NIGHTLY=1

code=0
.venv/bin/python -m pytest --basetemp=build/pytest -o cache_dir="$PWD/build/pytest-cache" "${arguments[@]}" "${named[@]}" || code=$?
[ $code != 0 ] || rm -rf build/pytest
exit $code
