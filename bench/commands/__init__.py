"""The verbs of `deeper`: each parses its options, calls one other room and prints what comes back.

Command lines come in; exit codes and text go out. It may import every room of `bench`, `analysis` and `reproduce`. Only
`bench.cli`, which puts the verbs together, knows `slurm`. The modules import nothing slow before a verb is called, so
that help and mistakes are answered at once.
"""
