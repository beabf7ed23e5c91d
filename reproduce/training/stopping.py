"""Stopping a run between two batches, on all ranks at once."""

from __future__ import annotations

from collections.abc import Callable

from reproduce.data.loading.loaders import ValLoader
from reproduce.execution.ranks import Ranks


class StopRequested(Exception):  # noqa: N818 - it is no error
    """Leaves the training loop after a stop request, with a checkpoint from which the run can be continued."""


def stop_check(
    loader: ValLoader, batch_size: int, ranks: Ranks, stop_requested: Callable[[], bool]
) -> Callable[[int], None]:
    """A function to call before each batch of a loader; raises `StopRequested` if any rank was asked to stop.

    Args:
        loader: The loader of this rank. Others may have one batch more or less.
        batch_size: Images of a batch of one rank.
        ranks: The ranks that share the images of the loader.
        stop_requested: Whether this rank was asked to stop.
    """
    common_batches = loader.images // ranks.world_size // batch_size

    def check(batch: int) -> None:
        if batch < common_batches and ranks.agree([stop_requested()])[0]:
            raise StopRequested

    return check
