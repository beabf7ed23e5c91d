"""`deeper bench target`: what it costs to train to an accuracy, and which part of the suite saves how much of it.

A folder of photographs comes in; minutes and CPU-seconds to the target go out, for each implementation and seed.
"""
