"""What one node of a job has: its share of the allocation, its address, its copy of the data and its part of Ray.

SLURM's environment variables and the submission's settings come in; a running Ray node goes out.
"""
