"""Work that is done in C for speed, each with a fallback for machines where the C code cannot be built.

Sources in C and the machine's compiler come in; loaded libraries go out. The decoder takes the bytes of JPEGs or stored
pixels and gives crops of them as arrays; it also puts restart markers into JPEGs. The kernels take and give torch's
tensors. A fallback does the same work, but its results may differ: see `DECODER` and `KERNELS`.

The package imports neither torch nor FFCV, so that every command can check the environment's requests before it starts.
"""

from __future__ import annotations

from pathlib import Path

from reproduce.native.caching import cache
from reproduce.native.compiling import Implementation, ImplementationError, Library, UnavailableError

__all__ = [
    "DECODER",
    "KERNELS",
    "LIBRARIES",
    "Implementation",
    "ImplementationError",
    "Library",
    "UnavailableError",
    "cache",
]

_HERE = Path(__file__).parent

DECODER = Library(
    sources=tuple(_HERE / name for name in ("crop.c", "boxes.c", "restart.c", "restart.h", "minmax.h")),
    role="decoder",
    fallback="stock",
    variable="DEEPER_DECODER",
    hint=(
        "install a C compiler and libjpeg-turbo's header (Debian: apt-get install gcc libjpeg62-turbo-dev; "
        "conda: conda install -c conda-forge c-compiler libjpeg-turbo)"
    ),
    links=("-ljpeg", "-lm"),
)
"""Crops of images in FFCV files (`reproduce.data.loading.cropping`) and restart markers in JPEGs
(`reproduce.data.markers`).

Fallback: FFCV's own decoder, which shows the same crops with slightly different pixels, and no restart markers.
"""

KERNELS = Library(
    sources=(_HERE / "kernels.c",),
    role="kernels",
    fallback="torch",
    variable="DEEPER_KERNELS",
    hint="install gcc (Debian: apt-get install gcc; conda: conda install -c conda-forge c-compiler)",
    openmp=True,
)
"""Max pooling, and batch normalisation with ReLU, in bfloat16 on CPUs (`reproduce.native.kernels`).

Fallback: torch's own, whose pooled maps are equal and whose other results differ by rounding.
"""

LIBRARIES = (DECODER, KERNELS)
