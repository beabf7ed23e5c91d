"""Libraries in C and kernels for speed, each with a fallback that the user can select.

Sources in C and the machine's compiler come in; loaded libraries go out. The decoder makes crops, as arrays, from the
bytes of JPEGs or of uncompressed pixels; it also puts restart markers into JPEGs. The kernels compute layers of the
network on torch's tensors: in C on CPUs, and in Triton on GPUs (`gpu`); the module `kernels` chooses. A fallback
computes other numbers than its library: other pixels in the case of the decoder, which is therefore used only on
request, and the same up to rounding in the case of the kernels, which take its place wherever they cannot be built. See
`DECODER` and `KERNELS`. Every attempt at a run records which of the two it used.

Importing this package imports neither torch nor FFCV, so that every command can check the environment variables that
select implementations before it starts.
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
    on_request="decodes with FFCV's own decoder to other pixels",
)
"""The library of the decoder: crops of images in FFCV files (`reproduce.data.loading.cropping`) and restart markers in
JPEGs (`reproduce.data.markers`).

Its fallback is FFCV's own decoder, which makes the same crops with other pixels, by far more than rounding at edges. It
is used only on request. The library's own pixels are the same for every number of threads. Without the library,
`deeper data prepare` writes no restart markers.
"""

KERNELS = Library(
    sources=tuple(_HERE / name for name in ("kernels.c", "layers.h")),
    role="kernels",
    fallback="torch",
    variable="DEEPER_KERNELS",
    hint="install gcc (Debian: apt-get install gcc; conda: conda install -c conda-forge c-compiler)",
    openmp=True,
)
"""The library of kernels for CPUs, in bfloat16 and float32: max pooling, and batch normalisation with ReLU
(`reproduce.native.c_kernels`).

Its fallback is torch's implementation of these layers. Both give equal pooled maps; their other results differ by
rounding, and so do those of the library for other numbers of threads.
"""

LIBRARIES = (DECODER, KERNELS)
