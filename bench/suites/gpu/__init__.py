"""`deeper bench gpu`: everything that only a GPU can show, in probes that fit into a few minutes on a borrowed one.

A time limit comes in; a result of each probe goes out as soon as the probe knows it, and a log if the probe fails.
"""
