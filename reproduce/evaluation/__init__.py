"""Evaluation as in the paper: single crop, 10 crops, 144 crops, and ensembles (Szegedy et al. 2014, section 7).

An `EvaluationConfig` (models, a prepared data set, a protocol) comes in; a `Validation` with the predictions for each
image goes out. Results of single images are kept on the way, so that a stopped evaluation can be continued.
"""
