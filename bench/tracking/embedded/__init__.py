"""Writes runs straight into the tables of the embedded store. Shaped runs come in; rows as MLflow writes them go out.

An SQLite store is created whole or not at all.

MLflow's client takes about a hundred statements for a run; here it is one transaction, which is ten times as fast.
"""
