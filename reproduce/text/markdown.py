"""Writes text that others wrote, such as names of arms and errors, into Markdown, and reads it from there."""

from __future__ import annotations

import re

_MEANING = re.compile(
    r"""
    [\\|*`$~]               # characters that mean something wherever they stand
    | (?<!\w)_ | _(?!\w)    # emphasis; within a word, an underscore is a letter
    | (?<=])\(              # the address of a link
    | :(?=[\w+-]+:)         # an emoji
    | &(?=\#?\w+;)          # a character by its name or number
    | ^[\#>] | ^[+-](?=\s|$)  # a heading, a quotation, a list
    | ^[=-](?=[=-]*\s*$)    # what makes a heading of the line above
    | ^\[(?=[ xX]\]\s|[^]]*\]:)  # a box to tick, the address of a link by its name
    """,
    re.VERBOSE,
)
_ITEM = re.compile(r"^\d{1,9}(?=[.)](?:\s|$))")
_ESCAPED = re.compile(r"\\([\\|*`$~_(:#>+=&\[.)-])|&lt;")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


def as_markdown(text: str) -> str:
    """Return Markdown that shows a text as it is, in one line, in a sentence or in a cell of a table.

    Ordinary prose, numbers and intervals in brackets are not changed.
    """
    escaped = _MEANING.sub(r"\\\g<0>", _BREAKS.sub(" ", text).lstrip())
    return _TAG.sub("&lt;", _ITEM.sub(r"\g<0>\\", escaped))


def as_cell(markdown: str) -> str:
    """Return Markdown of our own in a form that fits into a cell of a table, and in which nothing is HTML."""
    return _TAG.sub("&lt;", _BREAKS.sub(" ", markdown).replace("|", "\\|"))


def from_markdown(line: str) -> str:
    """Return the text of which `as_markdown` made a line. Prose that was written without it is not changed."""
    return _ESCAPED.sub(lambda found: found[1] or "<", line)
