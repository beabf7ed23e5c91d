"""The benchmarks: each measures this project beside its strongest alternatives, with interleaved repetitions.

Options come in; measurements with their spread go out, to the terminal and to `bench.results`. This room may import
every other room of `bench` but `bench.commands`, and `analysis` and `reproduce`.
"""
