"""The benchmarks: each measures this project beside its strongest alternatives, in one interleaved run.

Options come in; figures with their spread go out, to the screen and to `results`. It may import every room of `bench`
but `commands`, and `reproduce`.
"""
