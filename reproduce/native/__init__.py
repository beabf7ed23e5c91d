"""What is written in C, for speed: each source with the stand-in that gives the same results without it.

Imports neither torch nor FFCV, so that a command can check the choices before it starts anything.
"""

from __future__ import annotations

from pathlib import Path

from reproduce.native.compiling import Choice, ChoiceError, Source, UnavailableError, cache

__all__ = ["DECODER", "KERNELS", "SOURCES", "Choice", "ChoiceError", "Source", "UnavailableError", "cache"]

_HERE = Path(__file__).parent

DECODER = Source(
    paths=(_HERE / "crop.c", _HERE / "parts.c", _HERE / "parts.h"),
    what="decoder",
    stand_in="stock",
    variable="DEEPER_DECODER",
    cure=(
        "install a C compiler and libjpeg-turbo's header (Debian: apt-get install gcc libjpeg62-turbo-dev; "
        "conda: conda install -c conda-forge c-compiler libjpeg-turbo)"
    ),
    libraries=("-ljpeg", "-lm"),
)
"""Crops of an FFCV file's images (`reproduce.data.loading.cropping`), restart markers in what is written
(`reproduce.data.markers`); stock: FFCV's own decoder, no markers."""

KERNELS = Source(
    paths=(_HERE / "kernels.c",),
    what="kernels",
    stand_in="torch",
    variable="DEEPER_KERNELS",
    cure="install gcc (Debian: apt-get install gcc; conda: conda install -c conda-forge c-compiler)",
    openmp=True,
)
"""Max pooling and batch normalisation with ReLU in bfloat16 on CPUs (`reproduce.native.kernels`); torch: torch's."""

SOURCES = (DECODER, KERNELS)
