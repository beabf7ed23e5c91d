"""What the suites share: child processes, interleaved repetitions, meters, and ceilings of the machine.

Implementations to compare come in; figures with their spread go out.
"""
