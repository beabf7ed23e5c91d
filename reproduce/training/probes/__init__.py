"""Probes: measurements of a run's finished network in addition to the final validation.

A probe takes a `TrainedNetwork` (the network, loaders and ranks) and returns final metrics. The field `probes` of an
experiment selects them. To add a probe, write a function of the type `Probe`, list it in `registry.PROBES`, and add its
name to `reproduce.spec.ProbeName` and its metrics to `reproduce.schema`.
"""
