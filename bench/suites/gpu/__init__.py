"""`deeper bench gpu`: probes that test and measure a machine, above all its GPU, within a few minutes.

A time limit comes in; the result of each probe goes out as soon as the probe reports it, and a log if the probe fails.
"""
