"""Measures how large differences between arms are.

Estimates and samples go in; effect sizes, probabilities and tests of equivalence come out.
"""
