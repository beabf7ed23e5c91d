"""Names the kinds of files in the records that could go."""

from __future__ import annotations

from typing import Literal

Kind = Literal["checkpoints", "scratch", "logs", "evaluations"]
KINDS: dict[Kind, str] = {
    "checkpoints": "checkpoints before the last, and momentum and unused weights in the last, of finished runs",
    "scratch": "half-written files that killed processes left, and signs of life of finished runs",
    "logs": "what finished runs, Ray, the publisher and the server printed",
    "evaluations": "results of `deeper evaluate`",
}
"""The kinds of files that could go, and what they are."""
BY_DEFAULT: tuple[Kind, ...] = ("checkpoints", "scratch", "logs")
"""The kinds that nothing in the suite reads again. Claims read evaluations, which take hours, so they are named."""
