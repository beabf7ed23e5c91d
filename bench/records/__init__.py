"""Writes and reads the records of runs, and the plans of experiments and the evaluations that are kept beside them.

    <records>/runs/<key>/
        config.yaml                    everything that the experiment asks for
        environment.json               code, packages, machine and devices of the last attempt
        code-<hash>.diff               uncommitted changes to the code of an attempt
        events.jsonl                   starts, epochs and ends of attempts, with their metrics
        progress.json                  the heartbeat of a running attempt
        refused.txt                    why a driver did not resume the run, until its next attempt
        predictions.parquet            one row per validation image
        telemetry.parquet              one row per sample and device; telemetry-<attempt>.jsonl until an attempt ends
        lock, lease                    held by the process that trains the run, and by the driver that started it
    <records>/experiments/<name>/      plan.json
    <records>/evaluations/<hash>/      evaluation.json, predictions.parquet

Configurations, events and metrics come in; files go out, and typed states when they are read back. The room may import
`bench.machine` and `reproduce`.
"""
