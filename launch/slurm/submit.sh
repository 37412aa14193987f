#!/usr/bin/env bash
# Submits an array with a task for each job of a jobs file, several arrays where the site's MaxArraySize asks for that.
#
#   launch/slurm/submit.sh JOBS.json [--job NAMES] [--max-running K] [sbatch's options]... [-- run's options...]
#
#   --job NAMES       only these jobs: names or numbers, with commas between them (may be given several times; a name that
#                     holds a comma: by its number, as build/zoodip inspect JOBS.json shows it)
#   --max-running K   at most K tasks at a time; of several arrays, each then waits for the one before
#
#   launch/slurm/submit.sh jobs.json --max-running 8
#   launch/slurm/submit.sh jobs.json --gpus-per-node=0 --time=2:00:00 -- --set optim.steps=5000
#   launch/slurm/submit.sh jobs.json --job dog6,mug -- --resume
#
# From the project's folder. What is wrong with the file is said here and nothing is submitted. Jobs that are wrong by
# themselves (keys, or photos that are missing) are named and left out, the others are submitted. A task reads JOBS.json when
# it starts, not now: change neither the order of its jobs nor their names until all have ended.
set -euo pipefail

refuse() {
    echo "submit.sh: $*" >&2
    exit 2
}

# The comment that this file begins with.
usage() {
    sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"
}

case ${1-} in
    --help | -h) usage && exit 0 ;;
    '' | -*) refuse "the jobs file comes first; see launch/slurm/submit.sh --help" ;;
esac
file=$1 most='' names=() slurm=() sets=() program=${ZOODIP_BUILD:-build}/zoodip
shift
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
        --job=* | --max-running=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" && continue ;;
        --job) [ -n "${2-}" ] || refuse "--job needs names or numbers of jobs"
            IFS=, read -ra parts <<<"$2"
            for part in "${parts[@]}"; do names+=(--job "$part"); done
            shift ;;
        --max-running) [[ ${2-} =~ ^[1-9][0-9]*$ ]] || refuse "--max-running ${2-}: not a number of tasks"
            most=$2
            shift ;;
        --array* | -a*) refuse "$1: is chosen here; see --job and --max-running" ;;
        --set | --set=* | --resume | --overwrite) refuse "$1: an option of run comes after --" ;;
        *) slurm+=("$1") ;;
    esac
    shift
done
[ $# -eq 0 ] || shift
for ((i = 1; i <= $#; i++)); do
    case ${!i} in
        --set) j=$((i + 1)) && sets+=(--set "${!j-}") ;;
        --set=*) sets+=("${!i}") ;;
        --job | --job=* | --groups | --groups=* | --spool | --spool=*) refuse "${!i}: each task learns one job, on all its ranks" ;;
    esac
done

[ -f launch/slurm/array.sbatch ] || refuse "start this in the project's folder"
command -v sbatch >/dev/null || refuse "no sbatch here: submit this on a machine of a Slurm cluster"
[ -x "$program" ] || refuse "$program: no such program; build it with launch/setup.sh"
[ -f "$file" ] || refuse "$file: no such jobs file"
# the program says what is wrong with the file
shown=$("$program" inspect "$file" "${names[@]}" "${sets[@]}" --quiet) || exit 2
[[ $shown == *": a jobs file"$'\n'* ]] || refuse "$file: is no jobs file"
# its table: a line for each job, which begins with the number; the second word of those that are wrong is "wrong"
table=$(awk '!$0 { table = 0 } table { print } $1 == "job" && $2 == "steps" { table = 1 }' <<<"$shown")
right=$(awk '$2 != "wrong" { print $1 }' <<<"$table" | sort -nu)
wrong=$(awk '$2 == "wrong"' <<<"$table")
if [ -n "$wrong" ]; then
    echo "submit.sh: $(wc -l <<<"$wrong") of $(wc -l <<<"$table") jobs are wrong and left out; once they are mended, submit them with --job $(awk '{ print $1 }' <<<"$wrong" | paste -sd ,)"
    head -n 10 <<<"$wrong"
    [ "$(wc -l <<<"$wrong")" -le 10 ] || echo "  and more; see $program inspect $file"
fi >&2
[ -n "$right" ] || refuse "no job is right, and none is submitted"
folder=$(sed -n 's/^  output\.dir  //p;/^$/q' <<<"$shown")
if ! config=$(scontrol show config 2>&1); then
    echo "submit.sh: Slurm does not answer here: $(tail -n 1 <<<"$config")" >&2
    exit 1
fi
limit=$(awk '$1 == "MaxArraySize" { print $3 - 1 }' <<<"$config") # the largest index of a task
[[ $limit =~ ^[1-9][0-9]*$ ]] || refuse "this cluster takes no arrays (MaxArraySize in scontrol show config)"

# Lines "OFFSET 1-3,7": arrays, each of tasks that learn the jobs OFFSET + their index.
arrays=$(awk -v limit="$limit" '
    function end_range() { tasks = tasks (tasks ? "," : "") (from == to ? from : from "-" to) }
    {
        task = ($1 - 1) % limit + 1
        if (from && task == to + 1 && $1 - task == offset) { to = task; next }
        if (from) end_range()
        if (from && $1 - task != offset) { print offset, tasks; tasks = "" }
        from = to = task
        offset = $1 - task
    }
    END { end_range(); print offset, tasks }' <<<"$right")

ids=()
while read -r offset tasks <&3; do
    after=()
    [ -z "$most" ] || [ ${#ids[@]} -eq 0 ] || after=("--dependency=afterany:${ids[-1]}")
    id=$(sbatch --parsable "${slurm[@]}" "${after[@]}" --array="$tasks${most:+%$most}" launch/slurm/array.sbatch "$file" --offset "$offset" "$@") ||
        refuse "sbatch took ${#ids[@]} of $(wc -l <<<"$arrays") arrays${ids[*]:+: ${ids[*]}}"
    ids+=("${id%%;*}")
    echo "array ${ids[-1]}: tasks $tasks$([ "$offset" = 0 ] || echo ", jobs $offset higher")"
done 3<<<"$arrays"
echo "each task reads $file when it starts; to watch them: $program status $(printf '%q' "$folder"), squeue -j $(IFS=, && echo "${ids[*]}")"
