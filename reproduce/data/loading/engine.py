"""FFCV with workarounds for its faults. This is the only module of the package that imports FFCV.

Faults of FFCV 1.0.2 that it works around:

- Importing FFCV makes numba compile a typed dictionary, which takes seconds; a plain dictionary is enough.
- Importing FFCV and creating a loader change torch's number of threads, which training determines.
- An error in a loader's thread leaves the consumer waiting for ever, and an abandoned epoch leaves its thread running.
- On a GPU, a copy to the device waits for the computation that still reads its destination, but FFCV may write the next
  batch to the copy's source before the copy is done (issues 37 and 198 of libffcv/ffcv). The copies of an epoch's first
  batches wait for nothing, and the memory of a finished epoch may be freed before its last copies are done.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numba
import numba.typed
import numpy as np
import numpy.typing as npt
import torch

from reproduce.data.loading.read_ahead import ReadAhead, read_nothing_around

_torch_threads = torch.get_num_threads()
_typed_dict = numba.typed.Dict
numba.typed.Dict = dict

from ffcv.fields.basics import IntField  # noqa: E402
from ffcv.fields.rgb_image import RGBImageField, SimpleRGBImageDecoder  # noqa: E402
from ffcv.libffcv import imdecode, memcpy, resize_crop  # noqa: E402
from ffcv.loader import Loader  # noqa: E402
from ffcv.loader.epoch_iterator import EpochIterator  # noqa: E402
from ffcv.pipeline.allocation_query import AllocationQuery  # noqa: E402
from ffcv.pipeline.compiler import Compiler  # noqa: E402
from ffcv.pipeline.state import State  # noqa: E402
from ffcv.reader import Reader  # noqa: E402
from ffcv.transforms import ToDevice, ToTensor, ToTorchImage  # noqa: E402
from ffcv.types import (  # noqa: E402
    ALLOC_TABLE_TYPE,
    CURRENT_VERSION,
    TYPE_ID_HANDLER,
    FieldDescType,
    HeaderType,
    get_metadata_type,
)

torch.set_num_threads(_torch_threads)
numba.typed.Dict = _typed_dict

__all__ = [
    "ALLOC_TABLE_TYPE",
    "CURRENT_VERSION",
    "TYPE_ID_HANDLER",
    "AllocationQuery",
    "Compiler",
    "Epoch",
    "FieldDescType",
    "HeaderType",
    "IntField",
    "Loader",
    "RGBImageField",
    "Reader",
    "SimpleRGBImageDecoder",
    "State",
    "ToDevice",
    "ToTensor",
    "ToTorchImage",
    "compiling",
    "get_metadata_type",
    "imdecode",
    "memcpy",
    "resize_crop",
]


def _set_num_threads(cls: type[Compiler], threads: int) -> None:
    cls.num_threads = threads  # type: ignore[attr-defined]
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


Compiler.set_num_threads = classmethod(_set_num_threads)  # type: ignore


@contextlib.contextmanager
def compiling(enabled: bool) -> Iterator[None]:
    """Set whether numba compiles the pipelines of loaders that are created in the block.

    Only pipelines with loops in Python need it. The setting is FFCV's and applies to the whole process; leaving the
    block switches compilation on, whatever the setting was before.
    """
    Compiler.set_enabled(enabled)
    try:
        yield
    finally:
        Compiler.set_enabled(True)


class Epoch(EpochIterator):
    """FFCV's iterator over the batches of an epoch, which decodes ahead in a thread of its own.

    Before a batch is decoded, the kernel is asked to read the images of the next one. The constructor starts the
    thread. An exception in the thread is raised by `next` in the consumer's thread. Exhausting the iterator closes it;
    call `close` if the epoch is abandoned.

    Args:
        loader: The loader whose pipeline decodes the samples.
        order: int64 [N], numbers of the samples in the order in which they are loaded.
        buffers: `memory_allocations` of a closed epoch of the same loader and resolution, to be used again. None
            allocates new ones. New buffers are ordinary tensors even if the caller is in inference mode, since the
            thread that writes to them is not in inference mode.
        read_ahead: Reads the images of the loader's file.
    """

    def __init__(
        self, loader: Loader, order: npt.NDArray[np.int64], buffers: Any = None, *, read_ahead: ReadAhead
    ) -> None:
        self._read_ahead, self._numbers = read_ahead, order
        self._error: BaseException | None = None
        if buffers is not None:
            loader.graph.allocate_memory = lambda *_: buffers  # type: ignore[method-assign]
        try:
            with torch.inference_mode(False):
                super().__init__(loader, order)  # type: ignore[arg-type]
        finally:
            vars(loader.graph).pop("allocate_memory", None)

    def start(self) -> None:
        """Start the thread after making the copies to the device wait for computations that were queued before.

        FFCV's constructor calls it at its end.
        """
        for stream in self._copy_streams:
            stream.wait_stream(self.current_stream)  # which may still read the same memory
        read_nothing_around(cast(Any, self.memory_context).mmap)
        self._ask_for(0)
        super().start()

    def _ask_for(self, batch: int) -> None:
        size = self.loader.batch_size
        self._read_ahead.ask_for(self._numbers[batch * size : (batch + 1) * size])

    @property
    def _copy_streams(self) -> list[torch.cuda.Stream]:
        """CUDA streams of the copies to the device, one for each buffer; empty without CUDA."""
        return [stream for stream in self.cuda_streams if stream is not None]

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self._error = error
            self.output_queue.put(None)

    def __next__(self) -> Sequence[Any]:
        try:
            return cast(Sequence[Any], super().__next__())
        except StopIteration:
            if self._error is not None:
                raise self._error from None
            raise

    def run_pipeline(self, b_ix: int, batch_indices: Any, batch_slot: int, cuda_event: Any) -> Sequence[Any]:
        if self.terminate_event.is_set():
            raise StopIteration
        if (stream := self.cuda_streams[batch_slot]) is not None:
            stream.synchronize()  # waits for the copy of the last batch in this buffer
        self._ask_for(b_ix + 1)
        return cast(Sequence[Any], super().run_pipeline(b_ix, batch_indices, batch_slot, cuda_event))

    def close(self) -> None:
        """Stop the thread, and wait until it has ended and its copies to the device are done.

        This takes at most about as long as one batch. Afterwards the buffers may be freed or given to another epoch.
        """
        super().close()
        while self.is_alive():
            with contextlib.suppress(queue.Empty):
                self.output_queue.get(timeout=0.02)
        for stream in self._copy_streams:
            stream.synchronize()
