"""The report of an experiment: one page, tables and CSV files.

The name of an experiment and the address of an MLflow store come in; a folder of files goes out (`writing`). In
between, `sections` analyses what is recorded and puts it into words and tables (`tiles`, `results`, `completeness`,
`environment`), and `rendering` turns that into text, with the figures of `figures`.
"""
