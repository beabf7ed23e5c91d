"""The benchmarks: each measures this project beside its strongest alternatives, with interleaved repetitions.

Options come in; measurements with their spread go out, to the terminal and to `bench.results`. This package may import
`analysis`, `reproduce` and every package of `bench` except `bench.commands`.
"""
