"""Makes the report that compares two sides: two experiments, machines, commits, plans or folders of records.

Two selections of runs and the URIs of their MLflow stores come in (`sides`), and a folder of files goes out
(`writing`). What differs in recipe and environment (`differences`) stands before the same arms beside each other
(`content`), and `sentences` says both.
"""
