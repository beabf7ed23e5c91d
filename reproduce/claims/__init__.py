"""The claims ledger: the claims of the notes, the paper and the ports as data, and the findings on them.

The ledger file comes in (`ledger`), and findings go out (`verdicts`). Claims that the network alone decides are
measured here (`costs` and `structure`, listed in `registry`). Claims that recorded runs, evaluations or benchmarks
decide are measured in `analysis.claims`. `ledger`, `design` and `verdicts` import no torch.
"""
