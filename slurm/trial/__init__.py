"""A trial of a cluster's nodes before long jobs: `deeper slurm check`.

A profile comes in; a job measures its nodes, and one verdict for each node goes out.
"""
