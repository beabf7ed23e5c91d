"""Decides the claims of the ledger that need recorded runs, evaluations or benchmarks, and renders all findings.

Frames of runs and evaluations and results of benchmarks come in, together with rows of the ledger. Findings go out
(`decide`), and tables, JSON and Markdown that show findings (`rendering`). The ledger, the types of findings and the
measurements that need the network alone are in `reproduce.claims`.
"""
