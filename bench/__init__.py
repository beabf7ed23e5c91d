"""How the reproduction is run and measured: the `deeper` command, orchestration, records, tracking, benchmarks.

An experiment's plan comes in; records, an MLflow store and results of benchmarks go out. `docs/architecture.md` has the
picture of the rooms, and a test holds the table of the imports that are allowed between them.
"""
