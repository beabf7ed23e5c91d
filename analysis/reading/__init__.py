"""Reads experiments, runs and histories of metrics in bulk. The URI of an MLflow store comes in, plain values go out.

`opening` chooses between two readers that return the same: `sqlite_store` reads the tables of an SQLite file whose
schema it knows, without MLflow; `mlflow_store` asks MLflow's client for everything else.
"""
