"""Evaluate models as in Szegedy et al. 2014, section 7: with a single crop, 10 or 144 crops, and as ensembles.

The input is an `EvaluationConfig` (models, a prepared data set, a protocol), the output a `Validation` with the
predictions for each image. Results of single images are written to files on the way, so that a stopped evaluation can
be continued.
"""
