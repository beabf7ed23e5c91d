#!/bin/bash
# Publishes the records of ablation-imagenet to MLflow, prints how each run went, and makes the report, even if runs failed.
# Written by `deeper slurm`. To submit it by hand: sbatch --dependency=afterany:JOB report.sh
#SBATCH --job-name=ablation-imagenet-report
#SBATCH --time=00:30:00
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --output=/project/records/experiments/ablation-imagenet/slurm/20260102-030405/report-%j.log

folder=/project/records/experiments/ablation-imagenet/slurm/20260102-030405

stop() {
    echo "report.sh: $2" >&2
    exit "$1"
}

# --- run the profile's set-up and go to the folder of this submission ---------------------------------------------
set -u # not before the set-up: conda and modules use unset variables
cd "$folder" || stop 2 "$(hostname) does not see $folder; --records must be on a file system that all nodes share"
export PYTHONUNBUFFERED=1

records=/project/records
python=(/project/deeper/.venv/bin/python)

"${python[@]}" -m bench.tracking.publisher --records "$records" --experiment ablation-imagenet --once ||
    echo "report.sh: not everything was published to MLflow; $records/logs/publisher.log says why" >&2
"${python[@]}" -m bench.cli status ablation-imagenet --records "$records"
"${python[@]}" -m bench.cli report ablation-imagenet --records "$records" --output "$records/reports/ablation-imagenet"
