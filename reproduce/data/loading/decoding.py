"""Our FFCV decoders, native and stock: crop, resize and flip in one pass, drawn from a counter-based generator.

The numbers of an image depend on (seed, epoch, index in the file) alone: not on workers, threads, batches or ranks,
and not on the decoder.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from reproduce.data.encoding import JPG
from reproduce.data.loading import cropping
from reproduce.data.loading.cropping import Integers, StoredImages
from reproduce.data.loading.engine import AllocationQuery, Compiler, SimpleRGBImageDecoder, State, imdecode, resize_crop
from reproduce.data.loading.normalise import Normalise
from reproduce.data.manifest import DataError

# Without fastmath, unlike FFCV's own code: the same numbers whatever the compiler makes of the loop around them.
exact = njit(nogil=True, error_model="numpy")

_M1, _M2, _GOLDEN = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)
_S27, _S30, _S31, _S11, _ONE = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11), np.uint64(1)

Box = tuple[int, int, int, int, bool]
"""top, left, height, width in pixels; mirrored."""


@exact
def mix(value: np.uint64) -> np.uint64:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection of 64 bits."""
    value = (value ^ (value >> _S30)) * _M1
    value = (value ^ (value >> _S27)) * _M2
    return value ^ (value >> _S31)


@exact
def uniform(stream: np.uint64, draw: int) -> float:
    """Number `draw` of a stream, in [0, 1): SplitMix64 read at any place."""
    return float(mix(stream + _GOLDEN * (np.uint64(draw) + _ONE)) >> _S11) * 2.0**-53


@exact
def stream_of(key: np.uint64, index: int) -> np.uint64:
    """The stream of an image in an epoch."""
    return mix(key ^ mix(np.uint64(index) + _GOLDEN))


def uniforms(key: int, numbers: Integers, *, first: int, count: int) -> npt.NDArray[np.float64]:
    """[N, count]: draws `first` and on of many images' streams."""
    plain: Any = mix.py_func  # on whole arrays
    streams = plain(np.uint64(key) ^ plain(numbers.astype(np.uint64) + _GOLDEN))
    draws = _GOLDEN * np.arange(first + 1, first + count + 1, dtype=np.uint64)
    drawn: npt.NDArray[np.float64] = (plain(streams[:, None] + draws) >> _S11) * 2.0**-53
    return drawn


def epoch_key(seed: int, epoch: int) -> int:
    """What a seed and an epoch make of all images' streams: 64 bits."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return int(state[0])


@dataclass(frozen=True)
class RandomCrop:
    """A crop of area in `scale` (share of the image) and aspect ratio in `ratio` (P section 6); perhaps mirrored."""

    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: bool

    def box(self) -> Callable[[np.uint64, int, int, int], Box]:
        """Compiled `(key, index, height, width) -> Box`; ten tries, then the largest central crop that fits."""
        (scale_low, scale_high), (ratio_low, ratio_high), flip = self.scale, self.ratio, self.flip
        log_low, log_high = math.log(ratio_low), math.log(ratio_high)

        @exact
        def random_box(key: np.uint64, index: int, height: int, width: int) -> Box:
            stream = stream_of(key, index)
            mirrored = flip and uniform(stream, 0) < 0.5
            for attempt in range(10):
                first = 1 + 4 * attempt
                area = height * width * (scale_low + (scale_high - scale_low) * uniform(stream, first))
                ratio = math.exp(log_low + (log_high - log_low) * uniform(stream, first + 1))
                w = round(math.sqrt(area * ratio))
                h = round(math.sqrt(area / ratio))
                if 0 < w <= width and 0 < h <= height:
                    top = int(uniform(stream, first + 2) * (height - h + 1))
                    left = int(uniform(stream, first + 3) * (width - w + 1))
                    return top, left, h, w, mirrored
            w = min(width, max(1, round(height * ratio_high)))
            h = min(height, max(1, round(width / ratio_low)))
            return (height - h) // 2, (width - w) // 2, h, w, mirrored

        return random_box

    def boxes(self, key: int, indices: Integers, heights: Integers, widths: Integers) -> Integers:
        """The boxes of many images, [N, 5], natively."""
        return cropping.random_boxes(key, self.scale, self.ratio, self.flip, indices, heights, widths)


@dataclass(frozen=True)
class CentralCrop:
    """The central square whose side is `share` of the image's shorter side."""

    share: float

    def box(self) -> Callable[[np.uint64, int, int, int], Box]:
        share = self.share

        @exact
        def central_box(key: np.uint64, index: int, height: int, width: int) -> Box:
            side = max(1, round(share * min(height, width)))
            return (height - side) // 2, (width - side) // 2, side, side, False

        return central_box

    def boxes(self, key: int, indices: Integers, heights: Integers, widths: Integers) -> Integers:
        """The boxes of many images, [N, 5]."""
        side = np.maximum(1, np.rint(self.share * np.minimum(heights, widths)).astype(np.int64))
        return np.stack([(heights - side) // 2, (widths - side) // 2, side, side, np.zeros_like(side)], axis=1)


class CropDecoder(SimpleRGBImageDecoder):
    """Decodes FFCV's RGB images to [N, resolution, resolution, 3].

    The epoch's key is the last element of FFCV's table of sizes (`storage_state[2]`), which no look-up reaches, and the
    resolution is the destination's: neither a new epoch nor a new resolution compiles anything.
    """

    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self, crop: RandomCrop | CentralCrop, resolution: int) -> None:
        super().__init__()
        self.crop = crop
        self.resolution = resolution

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape, dtype = (self.resolution, self.resolution, 3), self.dtype
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)


class NativeDecoder(CropDecoder):
    """By crop.c (see `cropping.crop` for what it computes); nothing in it for numba to compile.

    file: named in the `DataError` that a damaged image raises. dtype: uint8, or `normalise`d float32 or bfloat16 (as
    uint16, since numpy lacks it).
    """

    def __init__(
        self, crop: RandomCrop | CentralCrop, resolution: int, threads: int, file: Path, normalise: Normalise | None
    ) -> None:
        super().__init__(crop, resolution)
        self.threads = threads
        self.file = file
        self.scale, self.shift = cropping.ONES, cropping.ONES
        if normalise is not None:
            self.dtype = np.dtype(np.float32 if normalise.dtype is torch.float32 else np.uint16)
            self.scale, self.shift = normalise.scale.flatten().numpy(), normalise.shift.flatten().numpy()

    def generate_code(self) -> Callable[..., Any]:
        def decode(indices: Integers, out: Any, metadata: Any, storage: Any) -> Any:
            content, offsets, sizes = storage
            images = metadata[indices]
            places = np.searchsorted(offsets, images["data_ptr"])
            for place in np.flatnonzero(offsets[np.minimum(places, len(offsets) - 1)] != images["data_ptr"])[:1]:
                self._refuse(indices[place], f"the file has no size for its offset {images['data_ptr'][place]}")
            stored = StoredImages(
                content=content,
                offsets=images["data_ptr"].astype(np.int64),
                sizes=sizes[places].astype(np.int64),
                heights=images["height"].astype(np.int64),
                widths=images["width"].astype(np.int64),
                is_jpeg=images["mode"] == JPG,
            )
            boxes = self.crop.boxes(int(sizes[-1]), indices, stored.heights, stored.widths)
            failed = cropping.crop(stored, boxes, out, scale=self.scale, shift=self.shift, threads=self.threads)
            for place, reason in failed.items():
                self._refuse(indices[place], reason)
            return out

        return decode

    def _refuse(self, number: int, reason: str) -> NoReturn:
        raise DataError(f"{self.file}: image {number} is damaged: {reason}; prepare the data set again")


class StockDecoder(CropDecoder):
    """By FFCV's own C functions (libturbojpeg, OpenCV's INTER_AREA) in a loop that numba compiles in each process.

    numba cannot keep what it compiled for the next process: FFCV makes the loop's source at run time. JPEGs much larger
    than what is asked for are decoded at 1/2, 1/4 or 1/8 (libjpeg's scaled DCT), as far as the crop stays larger than
    the output. FFCV reports no errors of damaged JPEGs.
    """

    def generate_code(self) -> Callable[..., Any]:
        box: Any = self.crop.box()
        read: Any = self.memory_read
        decode_jpeg: Any = Compiler.compile(imdecode)
        resize: Any = Compiler.compile(resize_crop)
        parallel_range = Compiler.get_iterator()
        jpg = JPG

        def decode(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
            key = storage_state[2][-1]
            resolution = destination.shape[1]
            for slot in parallel_range(len(batch_indices)):
                index = batch_indices[slot]
                field = metadata[index]
                stored = read(field["data_ptr"], storage_state)
                height, width = np.int64(field["height"]), np.int64(field["width"])
                top, left, h, w, mirrored = box(key, index, height, width)
                if field["mode"] == jpg:
                    shrink = 1
                    while shrink < 8 and min(h, w) >= 2 * shrink * resolution:
                        shrink *= 2
                    rows, columns = (height + shrink - 1) // shrink, (width + shrink - 1) // shrink
                    pixels = np.empty((rows, columns, 3), np.uint8)
                    decode_jpeg(stored, pixels, height, width, height, width, 0, 0, 1, shrink, False, False)
                    top, left = (top + shrink // 2) // shrink, (left + shrink // 2) // shrink
                    h, w = h // shrink, w // shrink
                else:
                    pixels = stored.reshape(height, width, 3)
                image = destination[slot]
                resize(pixels, top, top + h, left, left + w, image)
                if mirrored:
                    for y in range(resolution):
                        for x in range(resolution // 2):
                            for c in range(3):
                                other = resolution - 1 - x
                                image[y, x, c], image[y, other, c] = image[y, other, c], image[y, x, c]
            return destination[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode
