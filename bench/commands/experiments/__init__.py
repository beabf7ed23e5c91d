"""`deeper experiments`, `plan`, `status`, `report`: what is known of an experiment before, during and after its runs.

The name or the file of an experiment and the folder of the records come in; tables, JSON and reports go out.
"""
