"""Measures how large differences between arms are, what they cost, and says how they were compared.

Estimates, samples, censored times, predictions and decisions go in; effect sizes, tests of equivalence, log-rank and
McNemar tests, ratios of costs and a paragraph come out.
"""
