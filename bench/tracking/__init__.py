"""From records to MLflow: a publisher process that mirrors them, and the server that shows them.

Records come in; rows of an MLflow store go out. It may import `records`, `machine` and `reproduce.schema`.
"""
