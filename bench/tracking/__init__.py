"""Publishes records to MLflow and serves MLflow's pages.

Data flows in one direction: `reader` reads what is new in the records, `shaping` turns it into MLflow's terms, and
`sending` sends it. `publishing` calls these three steps in turn, and `cursors` remembers how far they got. Records come
in; experiments and runs of a tracking store go out. The package may import `bench.records`, `bench.machine` and
`reproduce`.
"""
