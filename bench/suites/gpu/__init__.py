"""`deeper bench gpu`: everything that only a GPU can show, in parts that fit a short loan of one.

A time limit comes in; a result and a log for each part go out, as soon as the part ends.
"""
