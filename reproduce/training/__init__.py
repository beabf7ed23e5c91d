"""Training of one run: the step, the loop, schedules, averages and checkpoints.

A configuration, prepared data and a place among the ranks come in; epochs' metrics, checkpoints and final measurements
go out, to an observer that the caller brings.
"""
