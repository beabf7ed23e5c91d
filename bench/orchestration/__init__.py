"""Trains the runs of a plan on a Ray cluster, several at once, and shows their progress.

Planned runs come in; records go out. The room may import `records`, `telemetry`, `machine`, `console` and `reproduce`.
It does not know MLflow: `tracking` publishes what is recorded.

An `Orchestrator` starts executors. Each `Executor` is a thread that takes runs from a `RunQueue`, which several drivers
may share by means of leases, and trains them on a `WorkerGroup`. A worker group consists of one `Worker`, a Ray actor,
for each rank. Only `cluster`, `worker_group` and `worker` know Ray.
"""
