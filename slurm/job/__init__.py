"""What runs inside a SLURM job: the launcher of each node, Ray on it, and how the nodes meet.

The environment that SLURM gives a job step comes in; an exit code that says whether to requeue goes out.
"""
