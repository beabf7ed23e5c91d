"""Implements the subcommands on experiments: `experiments`, `new`, `diff`, `schema`, `plan`, `status` and `report`.

The name or the file of an experiment and the folder of the records come in; tables, JSON, experiment files and reports
go out.
"""
