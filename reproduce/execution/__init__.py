"""What training and evaluation share: ranks, the set-up of a process, precision, top-k counts and exact validation.

A configuration and a rank's position among the others come in; counts on which every rank agrees go out. This room
knows nothing of `reproduce.training` and `reproduce.evaluation`, which are built on it.
"""
