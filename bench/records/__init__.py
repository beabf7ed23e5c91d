"""The record of a run, which is only appended to: writing it, reading its state, and evaluations beside it.

Events, metrics and configurations come in; files go out, and typed states when they are read (`docs/records.md` lists
every file). It may import `machine` and `reproduce`.
"""
