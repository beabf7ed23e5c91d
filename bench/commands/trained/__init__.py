"""Implements `deeper export` and `deeper predict`, which take the trained network of one run out of the records.

The name of a run comes in; a file for other programs, or predictions for images, go out.
"""
