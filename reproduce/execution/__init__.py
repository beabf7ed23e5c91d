"""Code that training and evaluation share: ranks, set-up of a process, precision, top-k counts, exact validation.

Inputs are a configuration and a rank's position among the others; results are the same on every rank. This package does
not import `reproduce.training` and `reproduce.evaluation`, which are built on it.
"""
