"""Turns recorded runs into statistics, verdicts, figures and reports.

Runs of one plan (`plans`) come in from MLflow as pandas frames (`frames`), and evaluations as one frame. Text and files
go out: the report of an experiment (`report`), the findings on the ledger's claims (`claims`) and the tables in the
project's documents (`documents`). Reports and claims share one set of statistics (`statistics`) and one format of
numbers (`tables`). Nothing here needs torch.
"""
