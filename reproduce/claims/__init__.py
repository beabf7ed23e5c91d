"""The claims ledger: each claim of the notes, the paper and the ports as data, and what becomes of a claim.

The ledger file comes in (`ledger`), and findings go out (`verdicts`). What the network alone decides is measured here
(`costs`, `structure`, listed in `registry`); `analysis.claims` measures what recorded runs and evaluations decide.
`ledger` and `verdicts` import no torch.
"""
