"""What an experiment will cost before it is run: its runs, device hours, energy and disk.

An experiment and the results of earlier runs and benchmarks come in; a plan with estimates goes out. It may import
`records`, `results`, `machine` and `reproduce`.
"""
