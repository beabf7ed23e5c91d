"""`deeper bench overhead`: what orchestration, telemetry, records and checkpoints cost a run.

A small experiment comes in; the speed of its runs in proportion to that of a plain process goes out.
"""
