"""Makes the report of an experiment: a page, tables and CSV files.

The name of an experiment and the URI of an MLflow store come in, and a folder of files goes out (`writing`). In
between, `sections` analyses the recorded runs and puts the results into words and tables (`tiles`, `results`,
`completeness`, `environment`). `rendering` turns these into files, with the figures of `figures`.
`comparing` does the same for two experiments beside each other.
"""
