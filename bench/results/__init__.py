"""Keeps the results of benchmarks, by kind of machine.

The measurements of a suite come in and JSON files go out. The planner and `deeper doctor` read these files again to
learn what was measured. The package may import `bench.machine` and `reproduce`.
"""
