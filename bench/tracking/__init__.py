"""From records to MLflow: a process that publishes them, and the server that shows them.

Data goes one way: `reader` reads what is new in the records, `shaping` turns it into MLflow's terms, and `sending`
sends it; `publishing` ties these steps together, and `cursors` remembers how far they got. Records come in; experiments
and runs of a tracking store go out. It may import `bench.records`, `bench.machine` and `reproduce`.
"""
