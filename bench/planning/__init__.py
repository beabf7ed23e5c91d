"""What an experiment will cost before it is run: its runs, device hours and disk space.

An experiment and the results of earlier runs and benchmarks come in; a plan and estimates go out. The room may import
`records`, `results`, `machine` and `reproduce`.
"""
