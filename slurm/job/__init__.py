"""What runs inside a SLURM job: a launcher on each node, which starts Ray and, on the head node, `deeper run`.

The environment that SLURM gives to a job step comes in; an exit code that says whether to requeue the job goes out.
"""
