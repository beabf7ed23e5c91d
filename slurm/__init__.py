"""The suite on a cluster: profiles, batch scripts, submission, status, and what runs inside a job.

An experiment and a profile come in; jobs go out. It registers its verbs, its part of `status` and its checks of
`doctor` with the command line, which names it in one place. It may import `bench.console`, `machine`, `planning`,
`orchestration`, `records` and `reproduce`.
"""
