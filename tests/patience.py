"""How long the tests of whole commands, and of jobs of SLURM, wait for one that may hang."""

PATIENCE_S = 900
"""Seconds after which a command or a job is taken to hang. Those that work take minutes on a busy machine."""
