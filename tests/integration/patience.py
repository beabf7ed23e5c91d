"""How long the tests of whole commands wait for one that may hang."""

PATIENCE_S = 900
"""Seconds after which a command is taken to hang. Those that work take minutes where others share their cores."""
