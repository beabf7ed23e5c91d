"""Plans experiments: lists their runs and estimates device hours and disk space before anything is trained.

An experiment and the results of earlier runs and benchmarks come in; a plan and estimates go out. The room may import
`records`, `results`, `machine` and `reproduce`.
"""
