#!/usr/bin/env bash
# Fuzzes every reader of files from outside (libFuzzer, AddressSanitizer, UndefinedBehaviorSanitizer).
#
#   tests/fuzz/run.sh MINUTES             each target so long (0.05: three seconds), as many at once as there are cores
#   tests/fuzz/run.sh MINUTES png jpeg    these targets
#
# Corpora grow in build-fuzz/corpus/ from run to run; the first inputs of each are made by tests/fuzz/seeds.py. An input
# that breaks something is kept in build-fuzz/found/, and the last lines say how to run it again.
# Exit codes: 0 nothing found, 1 something found, 2 wrong arguments or missing packages.
set -euo pipefail
cd "$(dirname "$0")/../.."
all='safetensors index settings config jobs vocabulary tokenizer png jpeg webp avif heic checkpoint embedding caption single_file schedule metrics summary status prompt'

say() {
    echo "fuzz: $*" >&2
}

case ${1-} in
    --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' tests/fuzz/run.sh && exit 0 ;;
esac
seconds=$(awk -v minutes="${1-}" 'BEGIN { if (minutes !~ /^[0-9]*\.?[0-9]+$/ || minutes <= 0) exit 1; printf "%d", minutes * 60 + 0.999 }') || {
    say "expected the minutes for each target, as in tests/fuzz/run.sh 1"
    exit 2
}
shift
for target in "$@"; do
    [[ " $all " == *" $target "* ]] || { say "$target: no such target; expected some of: $all" && exit 2; }
done
launch/setup.sh --tests=fuzz

home=build-fuzz
mkdir -p $home/found
.venv/bin/python tests/fuzz/seeds.py $home $home/corpus
TMPDIR=$(mktemp -d "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")/fuzz-XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# One target: a line of its inputs per second and what it found, and how the last input can be run again.
fuzz() {
    local target=$1 seconds=$2 home=$3 log=$3/$1.log words=$3/corpus/$1.dict before
    before=$(find "$home/found" -name "$target-*" | wc -l)
    [ -e "$words" ] || words=
    ln -sf fuzz "$home/fuzz/$target"
    "$home/fuzz/$target" "$home/corpus/$target" -artifact_prefix="$home/found/$target-" ${words:+-dict="$words"} \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -close_fd_mask=1 >"$log" 2>&1 || true
    if [ "$(find "$home/found" -name "$target-*" | wc -l)" = "$before" ] && grep -q '^stat::number_of_executed_units' "$log"; then
        awk -v target="$target" '/^#.* cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") places = $(i + 1) }
            /^stat::number_of_executed_units/ { inputs = $2 } END { printf "%-12s %9d inputs, %5d places reached, nothing found\n", target, inputs, places }' "$log"
    else
        grep -m 3 -E '^(SUMMARY|==[0-9]+==ERROR|fuzz:)|runtime error' "$log" || tail -n 3 "$log"
        printf '%-12s FOUND: %s\n' "$target" "$home/fuzz/$target $(find "$home/found" -name "$target-*" -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2)"
        return 1
    fi
}
export -f fuzz

# shellcheck disable=SC2086  # one word a target
printf '%s\n' ${*:-$all} | xargs -P "$(nproc)" -I '{}' bash -c 'fuzz "$@"' fuzz '{}' "$seconds" $home || {
    say "something was found; the whole story of each target is in $home/TARGET.log"
    exit 1
}
