"""How a plan is carried out: Ray, groups of workers, leases, retries, stops, and the table that shows them.

A plan comes in; records go out. It may import `records`, `telemetry`, `machine`, `console` and `reproduce`. It knows no
MLflow: `tracking` publishes what is recorded.
"""
