"""The processes inside a SLURM job: a launcher on each node, which starts Ray and, on the head node, `deeper run`.

The environment variables of a job step come in; an exit code that says whether to requeue the job goes out.
"""
