"""Decides the claims of the ledger that need recorded runs or evaluations, and writes the findings.

Frames of runs and evaluations come in, together with rows of the ledger; findings go out, and tables and JSON of them.
The ledger, the verdict types and the claims that the network alone decides are in `reproduce.claims`.
"""
