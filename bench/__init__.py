"""How it is run and measured: orchestration, telemetry, tracking, benchmarks."""
