"""Pools records of several machines or people into one folder of records.

Folders of records come in and stay as they are; one goes out, with each run once. `choosing` decides which copy of a
run is taken and what the pooled plans are, and `copying` writes them.
"""
