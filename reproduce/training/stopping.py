"""Stop a run between two batches, on all ranks together."""

from __future__ import annotations

from collections.abc import Callable

from reproduce.data.loading.loaders import ValLoader
from reproduce.execution.ranks import Ranks


class StopRequested(Exception):  # noqa: N818 - it is no error
    """Raised on all ranks to leave the training loop or a validation after a stop request on any rank."""


def stop_check(loader: ValLoader, ranks: Ranks, stop_requested: Callable[[], bool]) -> Callable[[int], None]:
    """Make a function that stops a pass over a validation loader on all ranks together.

    Args:
        loader: The loader of this rank. Other ranks may have one batch more or less.
        ranks: The ranks that share the images of the loader.
        stop_requested: Returns whether this rank has been asked to stop.

    Returns:
        A function to be called on every rank before each batch, with the number of the batch from 0. It raises
        `StopRequested` if any rank has been asked to stop. It is collective for the full batches that every rank has
        and does nothing for later ones. It writes no checkpoint.
    """
    common_batches = loader.images // ranks.world_size // loader.config.batch_size

    def check(batch: int) -> None:
        if batch < common_batches and ranks.agree([stop_requested()])[0]:
            raise StopRequested

    return check
