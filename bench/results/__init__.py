"""Results of benchmarks, kept by kind of machine: reading and writing them.

Figures of a suite come in; JSON files go out, and come in again where a plan or the doctor asks what was measured. It
may import `machine` and `reproduce`.
"""
