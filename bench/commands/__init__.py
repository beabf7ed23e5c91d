"""Implements the subcommands of `deeper`: each parses its options, calls other packages and prints the result.

Command lines come in; exit codes and text go out. The package may import all others of `bench`, `analysis` and
`reproduce`. Only `bench.cli`, which collects the subcommands, knows `slurm`. The modules import nothing slow before a
subcommand runs, so that help and messages about mistakes appear at once.
"""
