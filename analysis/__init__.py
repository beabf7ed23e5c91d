"""From recorded runs to statistics, verdicts, figures and reports.

Runs come in from MLflow as pandas frames (`frames`), evaluations as a frame. What goes out is text and files: the
report of an experiment (`report`), the findings on the ledger's claims (`claims`) and the tables in the project's
documents (`readme`). Reports and claims share one set of statistics (`statistics`) and one way to print numbers
(`tables`). Nothing here needs torch.
"""
