#!/usr/bin/env bash
# Runs a command on several ranks of this machine, with what mpirun needs in a container, as root, or with more ranks than cores.
#
#   launch/run.sh [-n RANKS] COMMAND [ARGUMENTS]...        RANKS: one for each core when not given
#
#   launch/run.sh -n 2 build/zoodip train configs/toybox.json
#   launch/run.sh -n 4 build/zoodip train configs/toybox.json --set zo.n=3 --set output.dir=results/four
#   launch/run.sh -n 2 build/zoodip train configs/toybox.json --resume
#
# Ctrl-C, SIGTERM and SIGUSR1 ask the ranks to finish their step, save a checkpoint and end; a second one ends them at once.
# The exit code is the command's: 0 done, 1 failed, 2 bad input, 75 stopped with all saved (run again with --resume).
set -uo pipefail

say() {
    echo "run.sh: $*" >&2
}

refuse() {
    say "$*"
    exit 2
}

ranks=$(nproc)
while [ $# -gt 0 ]; do
    case $1 in
        -n) [ $# -gt 1 ] || refuse "-n needs a number of ranks"
            ranks=$2 && shift 2 ;;
        --help | -h) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 0 ;;
        --) shift && break ;;
        -*) refuse "$1: no such option; see launch/run.sh --help" ;;
        *) break ;;
    esac
done
[[ $ranks =~ ^[1-9][0-9]{0,4}$ ]] || refuse "-n $ranks: not a number of ranks"
[ $# -gt 0 ] || refuse "no command to run; see launch/run.sh --help"
command -v "$1" >/dev/null || refuse "$1: no such program; build it with launch/setup.sh"
command -v mpirun >/dev/null || refuse "mpirun is missing: install openmpi-bin, or run launch/setup.sh"

# mpirun refuses root until told twice; in a container a rank may not read another's memory, and there is no need to.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
# Unbound ranks share the cores among themselves, those that this process may use: each takes as many threads as its share.
threads=$(($(nproc) / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
launcher=(mpirun --quiet --oversubscribe --bind-to none -np "$ranks")
# Behind mpirun no rank sees the terminal; rank 0 gets it back, for the progress bar.
if [ -t 2 ] && [ -w /dev/tty ]; then
    # shellcheck disable=SC2016  # expanded by the rank
    launcher+=(bash -c '[ "$OMPI_COMM_WORLD_RANK" != 0 ] || exec 2>/dev/tty; exec "$0" "$@"')
fi

# mpirun answers SIGTERM by killing its ranks a second later, SIGUSR1 by handing it on to them.
asked=
mpirun=
stop() {
    mpirun=${mpirun:-${!-}} # started already, though its id is not noted yet
    if [ -z "$mpirun" ]; then
        exit 75
    elif [ -z "$asked" ]; then
        asked=1
        say "asking the ranks to save and end"
        kill -USR1 "$mpirun" 2>/dev/null
    else
        kill -TERM "$mpirun" 2>/dev/null
    fi
}

trap stop INT TERM USR1
set -m # its own process group, so that Ctrl-C reaches this script alone
"${launcher[@]}" "$@" </dev/null &
mpirun=$!

# wait returns early for every signal caught
while wait "$mpirun"; code=$?; kill -0 "$mpirun" 2>/dev/null; do :; done

if [ -n "$asked" ] && [ "$code" -eq $((128 + $(kill -l USR1))) ]; then
    code=75 # asked before the ranks were listening: nothing had begun, so nothing is lost
elif [ "$code" -gt 128 ]; then
    say "a rank was ended by signal $(kill -l $((code - 128)))"
fi
exit "$code"
