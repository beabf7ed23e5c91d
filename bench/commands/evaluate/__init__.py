"""Implements `deeper evaluate`, which evaluates trained models on a validation set by the protocols of the paper.

Names of runs, files of weights and a prepared data set come in; an evaluation's folder and a table in the layout of
Table 3 of Szegedy et al. 2014 go out.
"""
