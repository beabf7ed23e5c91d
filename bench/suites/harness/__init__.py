"""Code that the suites share: worker processes, interleaved repetitions, meters, ceilings of the machine, and results.

Implementations to compare come in; tables and JSON with the measurements and their spread go out.
"""
