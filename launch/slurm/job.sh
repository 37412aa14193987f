# Shared by the batch scripts beside this file. They read it from the folder they were submitted in, because Slurm runs a
# copy of a batch script somewhere else.
#
# Signals: --signal=B:USR1@120 reaches only the batch script, two minutes before the time limit (and before a preemption,
# if the site has SlurmctldParameters=preempt_send_user_signal). SIGTERM, with which Slurm begins every end of its own making
# (preemption, scancel, time limit), reaches all processes. Either way the ranks finish their step, save, and end with 75.

[ -n "${SLURM_JOB_ID-}" ] || return # read by something else than sbatch

refuse() {
    echo "slurm: $*" >&2
    exit 2
}

# Runs a command on all tasks of the job, from its checkpoint if the job has started before (then launch/run.sh drops an
# --overwrite, too); requeues the job if it was asked to stop. Ends the script.
run_job() {
    local ranks code=75 warned='' ending='' resume=()
    [ "${SLURM_RESTART_COUNT:-0}" = 0 ] || resume=(--resume)
    trap 'warned=1; kill -USR1 "$ranks" 2>/dev/null' USR1
    trap 'ending=1; kill -USR1 "$ranks" 2>/dev/null' TERM
    launch/run.sh --restarts "${ZOODIP_RESTARTS:-3}" "$@" "${resume[@]}" &
    ranks=$!
    # wait returns early on every caught signal
    while wait "$ranks"; code=$?; kill -0 "$ranks" 2>/dev/null; do :; done

    # after SIGTERM Slurm decides: it requeues a preempted job itself, and a cancelled one must stay cancelled
    if [ "$code" = 75 ] && { [ -n "$warned" ] || [ -z "$ending" ]; }; then
        echo "slurm: everything is saved; requeueing job $SLURM_JOB_ID" >&2
        scontrol requeue "$SLURM_JOB_ID" ||
            echo "slurm: scontrol could not requeue it; unless Slurm does so itself, submit it again with --resume" >&2
    fi
    exit "$code"
}
