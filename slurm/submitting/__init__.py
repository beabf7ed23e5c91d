"""What surrounds a submission: the shell in which it is typed, and the Ray cluster that its nodes are to join.

The options of a job script and the environment of the submitting shell come in; the options and the environment of
`sbatch` go out, or a sentence on why the job could not start.
"""
