"""The command `deeper verify`: a recorded result comes in; verdicts on its repetition on this machine go out.

`reference` reads what was recorded, `static` decides the ledger's static rows again, and `command` runs what is to be
repeated and prints the comparison of `analysis.comparisons.reproduction`.
"""
