"""Evaluation as in the paper: single crop, 10 crops, 144 crops, and ensembles (P section 7)."""
