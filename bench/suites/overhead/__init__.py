"""`deeper bench overhead`: measures the cost of orchestration, telemetry, records and checkpoints for a run.

A small experiment comes in; the speed of its runs in proportion to that of a plain process goes out.
"""
