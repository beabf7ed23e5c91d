"""Implements `deeper doctor`, which checks what this machine offers and what it lacks, and suggests what to do.

The folders of records and data come in; `Check`s go out, one for each finding. The checks are quick: torch is the only
heavy package that is imported. Of the others, only the version is read.
"""
