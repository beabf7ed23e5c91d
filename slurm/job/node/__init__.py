"""The parts of one node of a job: its share of the allocation, its address, its copy of the data, and its Ray node.

SLURM's environment variables and the launcher's settings come in; a running Ray node goes out.
"""
