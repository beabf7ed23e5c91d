"""The claims ledger: the claims of the notes, the paper and the ports as data, and the findings on them.

The ledger file comes in (`ledger`), and findings go out (`verdicts`). Claims that the network alone decides are
measured here (`costs` and `structure`, listed in `registry`). Claims that recorded runs or evaluations decide are
measured in `analysis.claims`. `ledger` and `verdicts` import no torch.
"""
