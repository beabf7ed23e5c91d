"""Measures how large differences between arms are, what they cost, and says how they were compared.

Estimates, samples and decisions go in; effect sizes, tests of equivalence, ratios of costs and a paragraph come out.
"""
