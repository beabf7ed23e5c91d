"""The project on a SLURM cluster: profiles, batch scripts, submission, status, and what runs inside a job.

An experiment and a profile come in; jobs go out. The package contributes `deeper slurm`, a section of `deeper status`
and checks of `deeper doctor`; `slurm.extension` declares them, and `bench.cli` is the only module that names the
package. It may import `bench.console`, `machine`, `planning`, `orchestration`, `records` and `reproduce`.
"""
