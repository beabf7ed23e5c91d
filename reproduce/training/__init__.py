"""Training of one run: the loop, its step, schedules, weight averages, checkpoints, and probes of the finished network.

A run's configuration, prepared data and a rank's setup come in. Metrics of the epochs, predictions and final metrics
go out to an observer that the caller provides; checkpoints go to the run's folder.
"""
