#!/usr/bin/env bash
# Runs a command on several ranks, with the options that mpirun needs in a container, as root, or with more ranks than cores.
#
#   launch/run.sh [-n RANKS] [--restarts K] COMMAND [ARGUMENTS]...
#
#   -n RANKS       how many; by default one per core, in a Slurm job one per task
#   --restarts K   if the command ends with anything but 0, 2 or 75 (a rank was killed, hangs, failed), restarts it with
#                  --resume, at most K times, so that it continues from its newest good checkpoint
#
# A command with --overwrite gets it once: at a restart, and in a Slurm job that was requeued, --resume replaces it.
#
#   launch/run.sh -n 2 build/zoodip train configs/toybox.json
#   launch/run.sh -n 4 build/zoodip train configs/toybox.json --set zo.n=3 --set output.dir=results/four
#   launch/run.sh -n 2 build/zoodip train configs/toybox.json --resume
#   launch/run.sh --restarts 5 build/zoodip train configs/toybox.json --set cluster.timeout=120
#
# Ctrl-C, SIGTERM, SIGUSR1 and closing the terminal (SIGHUP, unless under nohup) ask the ranks to finish their step, save a
# checkpoint and end; another Ctrl-C ends them at once. ZOODIP_LAUNCHER=srun starts the ranks with `srun --mpi=pmix` instead of
# mpirun, for sites that want that (ZOODIP_MPI: a type other than pmix). mpirun in a Slurm job uses all of its nodes.
# The exit code is the command's: 0 done, 1 failed, 2 bad input, 75 stopped with everything saved (run again with --resume), 130
# ended at once; above 128 a rank was ended by a signal.
set -uo pipefail

say() {
    echo "run.sh: $*" >&2
}

refuse() {
    say "$*"
    exit 2
}

# The comment that this file begins with.
usage() {
    local line
    while read -r line && [[ $line == '#'* ]]; do
        line=${line#'#'}
        [[ $line == '!'* ]] || echo "${line# }"
    done <"$0"
}

# nproc by itself repeats OMP_NUM_THREADS
cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
ranks=${SLURM_NTASKS:-$cores} restarts=0
while [ $# -gt 0 ]; do
    case $1 in
        -n) [ $# -gt 1 ] || refuse "-n needs a number of ranks"
            ranks=$2 && shift 2 ;;
        --restarts) [ $# -gt 1 ] || refuse "--restarts needs a number"
            restarts=$2 && shift 2 ;;
        --help | -h) usage && exit 0 ;;
        --) shift && break ;;
        -*) refuse "$1: no such option; see launch/run.sh --help" ;;
        *) break ;;
    esac
done
[[ $ranks =~ ^[1-9][0-9]{0,4}$ ]] || refuse "-n $ranks: not a number of ranks"
[[ $restarts =~ ^[0-9]{1,6}$ ]] || refuse "--restarts $restarts: not a number of restarts"
[ $# -gt 0 ] || refuse "no command to run; see launch/run.sh --help"
command -v "$1" >/dev/null || refuse "$1: no such program; build it with launch/setup.sh"

# mpirun refuses to run as root unless told so twice. In a container a rank may not read another's memory, and need not.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
# A bundle (launch/bundle.sh) has Open MPI's runtime beside this folder: that one, and nothing of another that this system or a
# loaded module may have.
runtime=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")/openmpi prefix=()
if [ -x "$runtime/bin/mpirun" ]; then
    prefix=(--prefix "$runtime") # where mpirun finds its daemon on other nodes
    export PATH=$runtime/bin:$PATH
    export SLURM_EXPORT_ENV=ALL # all of this reaches the other nodes of a job too, whatever sbatch --export left out
    export OPAL_PREFIX=$runtime OPAL_SYSCONFDIR=$runtime/etc HWLOC_PLUGINS_PATH=$runtime/lib
    export PMIX_LIBDIR=$runtime/pmix/lib PMIX_DATADIR=$runtime/pmix/share PMIX_SYSCONFDIR=$runtime/etc
fi
# mpirun gives up if it finds no program to reach other machines with, even if it needs none.
[ -n "${OMPI_MCA_plm_rsh_agent-}" ] || command -v ssh rsh >/dev/null || export OMPI_MCA_plm=${OMPI_MCA_plm:-^rsh}
# Unbound ranks share the cores that this process may use: each takes as many threads as its share.
threads=${SLURM_CPUS_PER_TASK:-$((cores / ranks))}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
# Slurm ends a job with SIGTERM to every process. mpirun and its daemons would kill the ranks a second or two later;
# with this setting ranks get twice as many seconds, most of the half minute that Slurm usually grants.
[ -z "${SLURM_JOB_ID-}" ] || export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-12}

case ${ZOODIP_LAUNCHER:-mpirun} in
    mpirun) launcher=(mpirun "${prefix[@]}" --quiet --oversubscribe --bind-to none -np "$ranks") ;;
    # after the first rank ends, the others get eight seconds: killed at once, not all of them could exit with 75
    srun) launcher=(srun --mpi="${ZOODIP_MPI:-pmix}" --kill-on-bad-exit=0 --wait=8 --ntasks="$ranks"
                    ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"}) ;;
    *) refuse "ZOODIP_LAUNCHER: $ZOODIP_LAUNCHER: expected mpirun or srun" ;;
esac
command -v "${launcher[0]}" >/dev/null || refuse "${launcher[0]} is missing: install its package (openmpi-bin, slurm-client), or run launch/setup.sh"
# Without it a rank may leave MPI_Init and send to one that is not ready: Open MPI 4.1 then crashes, once in a hundred starts.
export SLURM_PMIX_FENCE_BARRIER=${SLURM_PMIX_FENCE_BARRIER:-true}
# Under mpirun no rank sees the terminal; rank 0 gets it back, for the progress bar.
if [ -t 2 ] && [ -w /dev/tty ]; then
    # shellcheck disable=SC2016  # expanded by the rank
    launcher+=(bash -c '[ "${OMPI_COMM_WORLD_RANK-}" != 0 ] || exec 2>/dev/tty; exec "$0" "$@"')
fi

# mpirun answers SIGTERM by killing its ranks a second later, and SIGUSR1 by passing it on to them. Signals that arrive while it
# starts them are lost, on many nodes for seconds; so SIGUSR1 is repeated a few times, even to ranks that have had it. But not
# while mpirun is ending: SIGUSR1 would then kill it, and hide how the ranks ended.
asked= ended= running= previous= helpers=()
accepts_signal() {
    local field mask
    while read -r field mask; do
        case $field in SigBlk: | SigCgt:) ((0x$mask & 1 << ($(kill -l USR1) - 1))) && return 0 ;; esac
    done <"/proc/$running/status"
    return 1
}
remind() {
    local pause
    for pause in 1 1 2 4 8 16 32; do
        sleep "$pause"
        kill -0 "$running" || break
        accepts_signal && kill -USR1 "$running"
    done
}
stop() {
    # started already, though its id is not noted yet
    [ -n "$running" ] || [ "${!-}" = "$previous" ] || running=$!
    if [ -z "$running" ]; then
        exit 75
    elif [ -z "$asked" ]; then
        asked=1
        say "asking the ranks to save and end"
        kill -USR1 "$running" 2>/dev/null
        beside remind
    elif [ "$1" = INT ]; then
        ended=1
        say "ending the ranks at once"
        kill -TERM "$running" 2>/dev/null
    fi
}
for name in INT TERM USR1 HUP; do
    # shellcheck disable=SC2064  # the current value
    trap "stop $name" "$name"
done

# Runs a function of this script beside the ranks, silently, in its own process group; its end is not reported.
beside() {
    "$1" &>/dev/null &
    helpers+=("-$!")
    disown "$!"
}

# Open MPI 4.1 may deadlock when it ends because a rank was lost while MPI was starting. Its ranks then stay zombies for longer
# than it gives them to end.
watch_mpirun() {
    local child dead late=0 most=$((4 + 2 * ${OMPI_MCA_odls_base_sigkill_timeout:-1}))
    while sleep 1 && kill -0 "$running"; do # also where this script is killed
        dead=0
        # shellcheck disable=SC2013  # the words are wanted
        for child in $(cat "/proc/$running/task/"*/children); do
            [[ $(<"/proc/$child/stat") != *") Z "* ]] || dead=1
        done
        late=$((dead * (late + 1)))
        [ "$late" -lt "$most" ] || kill -KILL "$running"
    done
}

# An mpirun that is killed leaves a folder below TMPDIR, and in /dev/shm a segment for each rank. A note in /dev/shm, which
# vanishes when the machine starts again, says that it is ours: it is named after this user, the process, and the namespace in
# which that is its number. What a noted mpirun left is cleared once neither it nor anyone who maps any of it is alive.
notes=/dev/shm/zoodip-mpirun.$EUID.$(readlink /proc/self/ns/pid)
note_mpirun() {
    (umask 077 && set -o noclobber && realpath -m -- "${TMPDIR:-${TEMP:-${TMP:-/tmp}}}" >"$notes.$running") 2>/dev/null
}
is_own() {
    [ -O "$1" ] && [ ! -L "$1" ]
}
is_alive() {
    [ -e "/proc/$1" ] && [[ $(<"/proc/$1/stat") != *") Z "* ]]
}
is_mapped() {
    local maps text part
    for maps in /proc/[0-9]*/maps; do
        text=$( (cat "$maps") 2>/dev/null)
        for part in "$@"; do
            [[ $text != *"$part"* ]] || return 0
        done
    done
    return 1
}
clear_leftovers() {
    local note mpirun folder name job segments
    for note in "$notes".*; do
        mpirun=${note##*.}
        is_own "$note" && ! is_alive "$mpirun" || continue
        for folder in "$(<"$note")"/ompi.*."$EUID/pid.$mpirun"; do
            is_own "$folder" && is_own "$(dirname "$folder")" && IFS=. read -r job _ <"$folder/contact.txt" || continue
            name=$(basename "$(dirname "$folder")")
            segments=/dev/shm/vader_segment${name#ompi}.$(printf %x $((job + 1))).
            ! is_mapped "$folder/" "$segments" || continue 2
            for name in "$segments"*; do
                ! is_own "$name" || rm -f -- "$name"
            done
            rm -rf -- "$folder"
        done
        rm -f -- "$note"
    done
} 2>/dev/null

# The command with --resume instead of --overwrite -> words.
resume() {
    local word
    words=()
    for word in "$@"; do
        [ "$word" = --overwrite ] || words+=("$word")
    done
    [[ " $* " == *" --resume "* ]] || words+=(--resume)
}

# Runs the ranks to their end; `code` is then their exit code.
run_ranks() {
    local name
    clear_leftovers
    "${launcher[@]}" "$@" </dev/null &
    running=$!
    [ "${launcher[0]}" != mpirun ] || { note_mpirun; beside watch_mpirun; }
    # wait returns early on every caught signal
    while wait "$running"; code=$?; kill -0 "$running" 2>/dev/null; do :; done
    [ ${#helpers[@]} -eq 0 ] || kill -- "${helpers[@]}" 2>/dev/null
    helpers=()
    clear_leftovers
    running= previous=${!-}
    if [ -n "$asked" ] && [ -z "$ended" ] && [ "$code" -eq $((128 + $(kill -l USR1))) ]; then
        code=75 # asked before the ranks were listening: nothing had begun, so nothing is lost
    elif [ -n "$ended" ] && [ "$code" != 0 ] && [ "$code" != 75 ]; then
        code=130
    elif [ "$code" -gt 128 ] && name=$(kill -l $((code - 128)) 2>/dev/null); then
        say "a rank was ended by signal $name"
    fi
}

set -m # each run is its own process group, so that Ctrl-C reaches this script alone
{ # bash has read all of this when it begins: in the days until its end the file may become another one
    words=("$@")
    [ "${SLURM_RESTART_COUNT:-0}" = 0 ] || [[ " $* " != *" --overwrite "* ]] || resume "$@"
    run_ranks "${words[@]}"
    for ((again = 1; again <= restarts; again++)); do
        case $code in 0 | 2 | 75) break ;; esac
        [ -z "$asked" ] || break
        say "ended with $code: restarting with --resume ($again of $restarts)"
        resume "$@"
        sleep 2 # whatever the lost rank left behind (its peers, its sockets) is gone by then
        run_ranks "${words[@]}"
    done
    exit "$code"
}
