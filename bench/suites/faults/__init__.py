"""`deeper bench faults`: disturbs runs in every way that is known to happen, and checks that nothing is wrong or lost.

Options come in; a result for each fault and moment goes out, to one JSON file for each kind of fault. `registry` lists
the kinds of fault, `runner` carries out trials and writes their results.
"""
