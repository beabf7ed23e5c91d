#!/bin/bash
# ablation-imagenet: one process a node; together they are a Ray cluster and the first one carries out the grid.
# Written by `deeper slurm`. By hand: `sbatch job.sh`. What is finished is not repeated.
#SBATCH --job-name=ablation-imagenet
#SBATCH --time=12:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --mem=128G
#SBATCH --array=0-3
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:USR1@120
#SBATCH --output=/project/records/experiments/ablation-imagenet/slurm/20260102-030405/grid-%A_%a.log
#SBATCH --open-mode=append

folder=/project/records/experiments/ablation-imagenet/slurm/20260102-030405
requeues=10 # times this job may start again, whatever the reason
restarts=${SLURM_RESTART_COUNT:-0}

say() { printf '%(%F %T)T job.sh: %s\n' -1 "$*"; }
stop() {
    say "$2" >&2
    exit "$1"
}

# --- is there an allocation, and may it start once more? ----------------------------------------------------------
[ -n "${SLURM_JOB_ID:-}" ] || stop 2 "this is not a SLURM job; type: sbatch $0"
[ -n "${SLURM_ARRAY_TASK_ID:-}" ] || stop 2 "this is not an element of a job array; type: sbatch $0"
job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID # the id of the job alone would name the whole array
state_and_reason() { squeue --noheader --states=all --jobs="$job" --format='%T %r' 2>&1; }
state=$(state_and_reason)
case $state in
    "" | *"Invalid job id"* | BOOT_FAIL* | CANCELLED* | COMPLET* | DEADLINE* | FAILED* | NODE_FAIL* | OUT_OF_MEMORY* | TIMEOUT*)
        stop 2 "the allocation $job has ended (${state:-no longer known}); ask for a new one, or type: sbatch $0"
        ;;
esac
[ "$restarts" -le "$requeues" ] || stop 75 "restarted $restarts times, $requeues are allowed (requeues); ended. Submit again to go on"

# --- set-up: the profile's own lines, and the folder of this submission -------------------------------------------
set -u # after the set-up: conda and modules use variables that are not set
cd "$folder" || stop 2 "$(hostname) does not see $folder; --records must lie on a file system that the nodes share"
export PYTHONUNBUFFERED=1
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') # no other job may join this one's Ray
export RAY_AUTH_TOKEN

# --- signals: the launcher looks at the stop file, every run writes a checkpoint, and it ends with 75 --------------
stop_file=$folder/stop-$SLURM_JOB_ID
rm -f "$stop_file"
cancelled=
# shellcheck disable=SC2317 # called by the traps
ask_to_stop() {
    say "$1: every run writes a checkpoint"
    printf '%s' "$1" >"$stop_file"
}
trap 'ask_to_stop "time limit"' USR1
trap 'say "SIGTERM: waiting for the launcher"' TERM
trap 'trap '\''kill "$child"'\'' INT; cancelled=yes; ask_to_stop cancelled' INT # a second Ctrl-C ends it at once

# --- one launcher a node ------------------------------------------------------------------------------------------
launcher=(
    /project/deeper/.venv/bin/python -m slurm.job.launcher
    --folder "$folder"
    --experiment "$folder/experiment.yaml"
    --records /project/records
    --data /project/data
    --object-store-mib 512
    -- # to `deeper run`
    --part "$((SLURM_ARRAY_TASK_ID + 1))/4"
    --seed 0
    --seed 1
    --retry-failed
)
say "job $job, start $((restarts + 1)) of $((requeues + 1)), on ${SLURM_JOB_NODELIST:-}"
# A node that dies ends neither the step nor the job: its runs are tried again on what is left.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    --cpus-per-task=32 --gpus-per-node=4 --no-kill --kill-on-bad-exit=0 "${launcher[@]}" &
child=$!
while kill -0 "$child" 2>/dev/null; do wait "$child"; done # a trapped signal ends `wait` before the child does
trap '' USR1 TERM INT # too late to ask for anything, and a signal would hide the code
wait "$child"
code=$?
rm -f "$stop_file"
if [ "$code" = 75 ] && [ -n "$cancelled" ]; then code=130; fi

# --- what its end means -------------------------------------------------------------------------------------------
case $code in
    0) say "done" ;;
    75)
        [ "$restarts" -lt "$requeues" ] || stop 75 "interrupted after $restarts restarts, $requeues are allowed (requeues). Submit again to go on"
        state=$(state_and_reason)
        case $state in
            "RUNNING "* | "COMPLETING TimeLimit")
                say "interrupted; restart $((restarts + 1)) of at most $requeues"
                scontrol requeue "$job" || say "not requeued (see above). Submit again to go on" >&2
                ;;
            *) say "interrupted ($state): cancelled, or requeued by SLURM itself" ;; # a requeue would undo a scancel
        esac
        ;;
    130) say "cancelled; submit again to go on" ;;
    *) say "ended with $code" ;;
esac
exit "$code"
