#!/usr/bin/env bash
# Copies the plan and the runs that ended from RECORDS into records/ beside this file, without checkpoints and logs.
#   collect.sh RECORDS [INTO]
set -euo pipefail

from=$1
into=${2:-$(dirname "$0")/records}

for plan in "$from"/experiments/*/plan.json; do
    experiment=$(basename "$(dirname "$plan")")
    mkdir -p "$into/experiments/$experiment"
    cp "$plan" "$into/experiments/$experiment/"
done
for run in "$from"/runs/*/; do
    tail -n 1 "$run/events.jsonl" | grep -Eq '"outcome": "(finished|failed)"' || continue
    mkdir -p "$into/runs/$(basename "$run")"
    for file in config.yaml environment.json events.jsonl predictions.parquet telemetry.parquet; do
        if [ -e "$run/$file" ]; then cp "$run/$file" "$into/runs/$(basename "$run")/"; fi
    done
done
