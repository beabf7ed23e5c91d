#!/bin/bash
# Runs the experiment ablation-imagenet. A launcher on each node joins a Ray cluster; the head node's also starts `deeper run`.
# Written by `deeper slurm`. To submit it by hand: `sbatch job.sh`, or `bash job.sh` inside salloc. Finished runs are not repeated.
#SBATCH --job-name=ablation-imagenet
#SBATCH --time=1-00:00:00
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:USR1@300
#SBATCH --output=/project/records/experiments/ablation-imagenet/slurm/20260102-030405/grid-%j.log
#SBATCH --open-mode=append

export DEEPER_JOB_BEGAN
DEEPER_JOB_BEGAN=$(date +%s.%N) # the launcher says how long the parts of the start take
folder=/project/records/experiments/ablation-imagenet/slurm/20260102-030405
requeues=30 # how often this job may start again, for whatever reason
restarts=${SLURM_RESTART_COUNT:-0}

say() { printf '%(%F %T)T job.sh: %s\n' -1 "$*"; }
stop() {
    say "$2" >&2
    exit "$1"
}

# --- check that there is an allocation and that it may start once more --------------------------------------------
[ -n "${SLURM_JOB_ID:-}" ] || stop 2 "this is not a SLURM job; submit it: sbatch $0"
job=$SLURM_JOB_ID
state_and_reason() {
    local answer tries
    for tries in {1..12}; do # a controller that restarts answers after a minute or two
        answer=$(squeue --noheader --states=all --jobs="$job" --format='%T %r' 2>&1) && break
        [[ $answer == *"Invalid job id"* || $tries == 12 ]] || sleep 10
    done
    printf '%s' "$answer"
}
state=$(state_and_reason)
case $state in
    "" | *"Invalid job id"* | BOOT_FAIL* | CANCELLED* | COMPLET* | DEADLINE* | FAILED* | NODE_FAIL* | OUT_OF_MEMORY* | TIMEOUT*)
        stop 2 "the allocation $job has ended (${state:-SLURM no longer knows it}); ask for a new one, or submit the job: sbatch $0"
        ;;
esac
[ "$restarts" -le "$requeues" ] || stop 75 "this job has restarted $restarts times, and the profile allows $requeues (requeues); submit again to continue"

# --- undo what the submitting shell left, and say where what was granted differs from the profile ------------------
unset SLURM_EXPORT_ENV "${!SLURM_CPU_BIND@}" # of `sbatch --export`, and of a shell that was itself started by srun
case "${SLURM_MEM_PER_NODE:+n}${SLURM_MEM_PER_CPU:+c}${SLURM_MEM_PER_GPU:+g}" in
    # srun accepts one of them; without any, a step has the memory of its job
    ??*) unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE ;;
esac
limit=$(squeue --noheader --jobs="$job" --format=%l 2>/dev/null)
[[ $limit =~ ^[0-9:-]+$ ]] || limit= # no limit, or no answer
compare() { [ "$2" = "$3" ] || say "$1: the profile asks for $2, and this job has ${3:-none}"; }
compare time 1-00:00:00 "${limit:-1-00:00:00}"
compare nodes 4 "${SLURM_JOB_NUM_NODES:-}"
compare cpus_per_node 64 "${SLURM_CPUS_PER_TASK:-}"
compare gpus_per_node 8 "${SLURM_GPUS_ON_NODE:-}"

# --- run the profile's set-up and go to the folder of this submission ---------------------------------------------
set -u # not before the set-up: conda and modules use unset variables
cd "$folder" || stop 2 "$(hostname) does not see $folder; --records must be on a file system that all nodes share"
export PYTHONUNBUFFERED=1

# --- on a signal, write the stop file; then every run writes a checkpoint and the launcher ends with 75 -----------
stop_file=$folder/stop-$SLURM_JOB_ID
code_file=$folder/exit-code-$SLURM_JOB_ID # the launcher of the head node writes it
rendezvous_file=$folder/rendezvous-$SLURM_JOB_ID-$restarts.json # so that the launchers find each other
rm -f "$stop_file" "$code_file" "$rendezvous_file"
cancelled=
# shellcheck disable=SC2317 # called by the traps
ask_to_stop() {
    say "$1: every run writes a checkpoint and stops"
    printf '%s' "$1" >"$stop_file"
}
trap 'ask_to_stop "time limit"' USR1
trap 'say "SIGTERM: waiting for the launcher to end"' TERM
trap 'trap '\''kill "$child"'\'' INT; cancelled=yes; ask_to_stop cancelled' INT # a second Ctrl-C ends the job at once

# --- start one launcher on each node ------------------------------------------------------------------------------
launcher=(
    /project/deeper/.venv/bin/python -m slurm.job.launcher
    --folder "$folder"
    --experiment "$folder/experiment.yaml"
    --records /project/records
    --data /project/data
    --scratch /tmp
    --object-store-mib 512
    --join head:6379
)
unset SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK # each launcher takes all CPUs of its node
say "job $job, start $((restarts + 1)) of at most $((requeues + 1)), on ${SLURM_JOB_NODELIST:-}"
# --no-kill, --kill-on-bad-exit=0: a node that dies does not end the job; its runs are tried again on the other nodes.
# --export=ALL: the nodes get this script's variables also where `sbatch --export=NONE` kept out those of the shell.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    --gpus-per-node=8 --no-kill --kill-on-bad-exit=0 --export=ALL "${launcher[@]}" &
child=$!
while kill -0 "$child" 2>/dev/null; do wait "$child"; done # a trapped signal ends `wait` before the child does
trap '' USR1 TERM INT # the launchers have ended, and a signal would hide their exit code
wait "$child"
code=$?
if [ -s "$code_file" ]; then code=$(<"$code_file"); fi # srun's is the highest of all nodes, also of one that was lost
rm -f "$stop_file" "$code_file" "$rendezvous_file"
if [ "$code" = 75 ] && [ -n "$cancelled" ]; then code=130; fi

# --- say how the launchers ended, and requeue the job if it was interrupted ---------------------------------------
case $code in
    0) say "done" ;;
    75)
        [ "$restarts" -lt "$requeues" ] || stop 75 "interrupted after $restarts restarts, and the profile allows $requeues (requeues); submit again to continue"
        state=$(state_and_reason)
        case $state in
            "RUNNING "* | "COMPLETING TimeLimit")
                say "interrupted; requeueing for restart $((restarts + 1)) of at most $requeues"
                scontrol requeue "$job" || say "SLURM refused the requeue (see above); submit again to continue" >&2
                ;;
            *) say "interrupted ($state): the job was cancelled, or SLURM requeues it" ;; # a requeue would undo scancel
        esac
        ;;
    130) say "cancelled; submit again to continue" ;;
    2) say "ended; the sentence above says what to mend before it is submitted again" ;;
    70) say "the launcher failed by a bug of its own; its traceback is above" >&2 ;;
    *) say "ended with exit code $code" ;;
esac
exit "$code"
