# What the batch scripts beside this file share. They read it from the folder they were submitted in, because Slurm runs a
# copy of a batch script somewhere else.
#
# Signals: --signal=B:USR1@120 reaches the batch script alone, two minutes before the time limit (and before a preemption,
# where the site has SlurmctldParameters=preempt_send_user_signal). SIGTERM, the beginning of every end that Slurm brings about itself
# (preemption, scancel, time limit), reaches all processes. Either way the ranks finish their step, save, and end with 75.

[ -n "${SLURM_JOB_ID-}" ] || return # read by something else than sbatch

refuse() {
    echo "slurm: $*" >&2
    exit 2
}

# Runs a command on all tasks of the job, from its checkpoint where the job has started before; puts the job back into the
# queue when it was asked to stop. Ends the script.
run_job() {
    local ranks code=75 warned='' ending='' resume=()
    [ "${SLURM_RESTART_COUNT:-0}" = 0 ] || resume=(--resume)
    trap 'warned=1; kill -USR1 "$ranks" 2>/dev/null' USR1
    trap 'ending=1; kill -USR1 "$ranks" 2>/dev/null' TERM
    launch/run.sh --restarts "${ZOODIP_RESTARTS:-3}" "$@" "${resume[@]}" &
    ranks=$!
    # wait returns early for every signal caught
    while wait "$ranks"; code=$?; kill -0 "$ranks" 2>/dev/null; do :; done

    # whoever sent SIGTERM decides what becomes of the job: a preempted one goes back by itself, a cancelled one is to stay away
    if [ "$code" = 75 ] && { [ -n "$warned" ] || [ -z "$ending" ]; }; then
        echo "slurm: all is saved: job $SLURM_JOB_ID goes back into the queue" >&2
        scontrol requeue "$SLURM_JOB_ID" ||
            echo "slurm: scontrol did not put it there: where Slurm has not done so itself, submit it again with --resume" >&2
    fi
    exit "$code"
}
