"""Train one run: the loop, its step, schedules, weight averages, checkpoints, and probes of the finished network.

The inputs are a run's configuration, a prepared data set and the setup of one rank. The metrics of each epoch and the
predictions go to an observer that the caller provides, checkpoints go to the run's folder, and the final metrics are
returned.
"""
