"""The claims ledger: each claim of the notes, the paper and the ports as data, with the measurement that decides it."""
