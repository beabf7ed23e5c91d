"""`deeper bench overhead`: what orchestration, telemetry, records and checkpoints cost a run.

A small experiment comes in; the ratio of its speed to that of a plain process goes out.
"""
