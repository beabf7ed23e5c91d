"""Writes text that others wrote, such as names of arms and errors, into Markdown, and reads it from there."""

from __future__ import annotations

import re

_MEANING = re.compile(
    r"""
    [\\|*`$~]               # characters that mean something wherever they stand
    | (?<!\w)_ | _(?!\w)    # emphasis; within a word, an underscore is a letter
    | (?<=])\(              # the address of a link
    | :(?=[\w+-]+:)         # an emoji
    | ^\# | ^[>+-](?=\s)    # a heading, a quotation, a list
    """,
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\([\\|*`$~_(:#>+-])")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


def as_markdown(text: str) -> str:
    """Return Markdown that shows a text as it is, in one line, in a sentence or in a cell of a table.

    Ordinary prose, numbers and intervals in brackets are not changed.
    """
    return _TAG.sub("&lt;", _MEANING.sub(r"\\\g<0>", _BREAKS.sub(" ", text).lstrip()))


def as_cell(markdown: str) -> str:
    """Return Markdown of our own in a form that fits into a cell of a table, and in which nothing is HTML."""
    return _TAG.sub("&lt;", _BREAKS.sub(" ", markdown).replace("|", "\\|"))


def from_markdown(line: str) -> str:
    """Return the text of which `as_markdown` made a line. Prose that was written without it is not changed."""
    return _ESCAPED.sub(r"\1", line.replace("&lt;", "<"))
