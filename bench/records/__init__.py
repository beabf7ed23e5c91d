"""The record of a run, which is only appended to; the plans of experiments and the evaluations of runs beside it.

Configurations, events and metrics come in; files go out, and typed states when they are read back. It may import
`bench.machine` and `reproduce`.
"""
