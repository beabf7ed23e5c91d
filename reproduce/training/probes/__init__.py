"""Probes: measurements that a run takes of its finished network, beyond the final validation.

A `TrainedNetwork` (the network, loaders, ranks) comes in and final metrics go out. An experiment names the probes it
wants in its field `probes`. To add one: write a function of the type `Probe`, list it in `registry.PROBES`, and add its
name to `reproduce.spec.ProbeName` and its metrics to `reproduce.schema`.
"""
