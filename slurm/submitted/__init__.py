"""Jobs that have been submitted: which there are, what their logs say, and their end.

The folders of submissions and SLURM's answers come in; a list of jobs, the text of logs and a cancellation go out.
"""
