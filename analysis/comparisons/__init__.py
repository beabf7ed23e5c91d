"""Compares arms by more than their final accuracy.

Recorded runs, their curves and their predictions go in; effect sizes, times to a target accuracy, accuracies at equal
cost, Pareto fronts and differences image by image come out.
"""
