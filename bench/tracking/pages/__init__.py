"""Says what MLflow's pages show of an experiment: notes, colours, saved views, an attached report, quiet defaults.

Plans, states and files of a report come in; Markdown, tags, links and the server's app go out. `notes`, `colours` and
`views` are pure. `app` runs within MLflow's server. The package may import `bench.records` and `reproduce`.
"""

FORMAT = "3"
"""Changes when tags of runs and experiments are shaped in another way, so that the publisher replaces older ones."""
