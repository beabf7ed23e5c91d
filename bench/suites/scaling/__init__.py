"""`deeper bench scaling`: measures how training scales over ranks, and whether the planner predicts it.

The same step, with and without communication, comes in; images per second, the cost of an all-reduce and the error of
the prediction go out. `deeper slurm check` measures the same over the nodes of a cluster.
"""
