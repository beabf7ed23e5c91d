"""Turns the content of a report into files.

Sections come in (`analysis.report.sections`). They become figures (`plots`), a self-contained page (`page`) and a
Markdown document (`document`); `files` writes these, with tables as CSV and LaTeX and figures as SVG and PNG.
"""
