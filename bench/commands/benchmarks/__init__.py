"""Implements `deeper bench`, which measures this project beside its baselines on this machine.

A suite and its options come in; comparisons go out, on the terminal and as JSON.
"""
