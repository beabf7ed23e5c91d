"""How it is carried out on a SLURM cluster: profiles, job scripts, submission, and what runs inside the job."""
