"""What training and evaluation share: ranks, the set-up of a process, and exact validation.

A configuration and a place among the ranks come in; counts that every rank agrees on go out.
"""
