"""FFCV decoders that crop, resize and mirror images in one pass, and the random generator of the crops.

The generator is counter-based. The random numbers of an image depend only on the seed, the epoch and the image's number
in the file, and not on workers, threads, batches, ranks or the decoder.
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
from reproduce.data.manifest import DamagedDataError

# Without fastmath, unlike FFCV's own code, so that the numbers do not depend on how the loop around them is compiled.
exact = njit(nogil=True, error_model="numpy")

_M1, _M2, _GOLDEN = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)
_S27, _S30, _S31, _S11, _ONE = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11), np.uint64(1)

Box = tuple[int, int, int, int, bool]
"""Top, left, height and width in pixels, and whether the crop is mirrored."""


@exact
def mix(value: np.uint64) -> np.uint64:
    """Apply the finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection of 64-bit numbers."""
    value = (value ^ (value >> _S30)) * _M1
    value = (value ^ (value >> _S27)) * _M2
    return value ^ (value >> _S31)


@exact
def uniform(stream: np.uint64, draw: int) -> float:
    """Compute draw number `draw`, counted from 0, of a SplitMix64 stream: a float64 in [0, 1)."""
    return float(mix(stream + _GOLDEN * (np.uint64(draw) + _ONE)) >> _S11) * 2.0**-53


@exact
def stream_of(key: np.uint64, index: int) -> np.uint64:
    """Compute the random stream of an image in an epoch.

    Args:
        key: Key of the epoch, see `epoch_key`.
        index: Number of the image in the file.

    Returns:
        The stream, from which `uniform` draws.
    """
    return mix(key ^ mix(np.uint64(index) + _GOLDEN))


def uniforms(key: int, numbers: Integers, *, first: int, count: int) -> npt.NDArray[np.float64]:
    """Draw the same numbers as `uniform`, for N images at once.

    Args:
        key: Key of the epoch, see `epoch_key`.
        numbers: int64 [N], numbers of the images in the file.
        first: Number of the first draw.
        count: Number of draws of each image.

    Returns:
        float64 [N, count] in [0, 1): draws `first` to `first + count - 1` of each image's stream.
    """
    plain: Any = mix.py_func  # which works on whole arrays
    streams = plain(np.uint64(key) ^ plain(numbers.astype(np.uint64) + _GOLDEN))
    draws = _GOLDEN * np.arange(first + 1, first + count + 1, dtype=np.uint64)
    drawn: npt.NDArray[np.float64] = (plain(streams[:, None] + draws) >> _S11) * 2.0**-53
    return drawn


def epoch_key(seed: int, epoch: int) -> int:
    """Compute the key of an epoch, an unsigned 64-bit number that determines the random streams of all images."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return int(state[0])


@dataclass(frozen=True)
class RandomCrop:
    """Parameters of random crops of training images (Szegedy et al. 2014, section 6)."""

    scale: tuple[float, float]
    """Minimum and maximum of a crop's area, as a share of the image's area."""
    ratio: tuple[float, float]
    """Minimum and maximum of a crop's aspect ratio, width / height."""
    flip: bool
    """Whether to mirror each crop with probability 1/2."""

    def box(self) -> Callable[[np.uint64, int, int, int], Box]:
        """Make a function that draws the crop of one image, for use in code that numba compiles.

        Returns:
            A numba function `(key, index, height, width) -> Box` of the epoch's key, the image's number in the file and
            its size in pixels. It draws up to ten crops and returns the first that fits into the image; if none fits,
            it returns the largest central crop with a permitted aspect ratio.
        """
        (min_scale, max_scale), (min_ratio, max_ratio), flip = self.scale, self.ratio, self.flip
        min_log, max_log = math.log(min_ratio), math.log(max_ratio)

        @exact
        def random_box(key: np.uint64, index: int, height: int, width: int) -> Box:
            stream = stream_of(key, index)
            mirrored = flip and uniform(stream, 0) < 0.5
            for attempt in range(10):
                first = 1 + 4 * attempt
                area = height * width * (min_scale + (max_scale - min_scale) * uniform(stream, first))
                ratio = math.exp(min_log + (max_log - min_log) * uniform(stream, first + 1))
                w = round(math.sqrt(area * ratio))
                h = round(math.sqrt(area / ratio))
                if 0 < w <= width and 0 < h <= height:
                    top = int(uniform(stream, first + 2) * (height - h + 1))
                    left = int(uniform(stream, first + 3) * (width - w + 1))
                    return top, left, h, w, mirrored
            w = min(width, max(1, round(height * max_ratio)))
            h = min(height, max(1, round(width / min_ratio)))
            return (height - h) // 2, (width - w) // 2, h, w, mirrored

        return random_box

    def boxes(self, key: int, indices: Integers, heights: Integers, widths: Integers) -> Integers:
        """Compute the same crops as `box`, for N images at once, by the native library.

        Args:
            key: Key of the epoch, see `epoch_key`.
            indices: int64 [N], numbers of the images in the file.
            heights: int64 [N], in pixels.
            widths: int64 [N], in pixels.

        Returns:
            int64 [N, 5]: the elements of a `Box` for each image.

        Raises:
            UnavailableError: The native decoder is unavailable on this machine.
        """
        return cropping.random_boxes(key, self.scale, self.ratio, self.flip, indices, heights, widths)


@dataclass(frozen=True)
class CentralCrop:
    """Parameters of the crop of validation images: a central square."""

    share: float
    """Side of the square, as a share of the image's shorter side."""

    def box(self) -> Callable[[np.uint64, int, int, int], Box]:
        """Make a numba function `(key, index, height, width) -> Box`, which ignores the key and the image's number."""
        share = self.share

        @exact
        def central_box(key: np.uint64, index: int, height: int, width: int) -> Box:
            side = max(1, round(share * min(height, width)))
            return (height - side) // 2, (width - side) // 2, side, side, False

        return central_box

    def boxes(self, key: int, indices: Integers, heights: Integers, widths: Integers) -> Integers:
        """Compute the same crops as `box`, for N images at once, as int64 [N, 5]; `key` and `indices` are ignored."""
        side = np.maximum(1, np.rint(self.share * np.minimum(heights, widths)).astype(np.int64))
        return np.stack([(heights - side) // 2, (widths - side) // 2, side, side, np.zeros_like(side)], axis=1)


class CropDecoder(SimpleRGBImageDecoder):
    """Base class of FFCV operations that decode crops of RGB images to [N, resolution, resolution, 3].

    The caller may change `resolution` between epochs. The decoding functions read the epoch's key from an additional
    last element of FFCV's table of sizes (`storage_state[2]`), which belongs to no image, and take the resolution from
    the shape of the destination. A new epoch or resolution therefore needs no compilation.
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
    """Decodes with the native library (crop.c), see `cropping.crop`. Numba compiles nothing.

    The decoding function raises `DamagedDataError` at a damaged image.

    Args:
        crop: Random or central crops.
        resolution: Side of the decoded images, in pixels.
        threads: Number of threads that decode a batch.
        file: The FFCV file, which the message about a damaged image names.
        normalise: Normalisation to apply while decoding, on the CPU. Images are then float32, or the bits of bfloat16
            as uint16, since numpy has no bfloat16. None decodes to uint8 pixels.
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
            known = offsets[np.minimum(places, len(offsets) - 1)] == images["data_ptr"]
            if not known.all():
                self._refuse(indices[known.argmin()], "its offset is not in the file's table")
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
        raise DamagedDataError(f"{self.file}: image {number} is damaged: {reason}; prepare the data set again")


class StockDecoder(CropDecoder):
    """Decodes to uint8 with FFCV's own C functions (libturbojpeg, OpenCV's INTER_AREA) in a loop that numba compiles.

    Every process compiles the loop anew, since FFCV generates its source at run time. A JPEG is decoded at 1/1, 1/2,
    1/4 or 1/8 of its size (libjpeg's scaled DCT), at the smallest of them at which the crop is not smaller than the
    output. FFCV does not report damaged JPEGs.
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
            for place in parallel_range(len(batch_indices)):
                index = batch_indices[place]
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
                image = destination[place]
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
