"""Results of benchmarks, kept by kind of machine.

The measurements of a suite come in and JSON files go out. The planner and `deeper doctor` read them back when they need
to know what was measured. This room may import `bench.machine` and `reproduce`.
"""
