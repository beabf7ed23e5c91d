"""Checks the packages that this project needs, and its compiled C code."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from bench.console.checks import Check
from reproduce.execution.kernel_checks import check_kernels
from reproduce.native import KERNELS, LIBRARIES, ImplementationError, Library
from reproduce.native.gpu.backend import TRITON
from reproduce.spec import NetworkConfig
from reproduce.training.graphs.switch import VARIABLE, graph_wanted

INSTALL = "run `make setup`"


def checks() -> list[Check]:
    """Check the interpreter, the packages and the C code, and return one finding for each.

    The call may compile the C code, if this machine has not compiled it before.
    """
    return [
        Check("Python", "ok", f"{platform.python_version()} at {sys.executable}"),
        _torch(),
        _package("torchvision"),
        _ffcv(),
        *map(_compiled, LIBRARIES),
        *_gpu_kernels(),
        *_graphs(),
        _package("ray"),
        _mlflow(),
    ]


def _torch() -> Check:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    device = f"{torch.cuda.device_count()} GPUs" if torch.cuda.is_available() else "trains on CPU"
    return Check("torch", "ok", f"{torch.__version__} ({build} build), {device}, {torch.get_num_threads()} threads")


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", INSTALL)


def _mlflow() -> Check:
    check = _package("mlflow")
    if check.status == "ok":
        return check
    hint = "run with `deeper run --no-publish`, and write the report on another machine"
    return Check("mlflow", "warn", "not installed, so this machine writes no reports", hint)


def _ffcv() -> Check:
    """Check that FFCV's compiled library loads or, if FFCV is not installed, which tools to build it are missing."""
    found = importlib.util.find_spec("ffcv")
    if found is None or found.origin is None:
        missing = _missing_build_tools()
        tools = f"missing to build it: {', '.join(missing)}" if missing else "everything needed to build it is there"
        return Check("ffcv", "fail", f"not installed; {tools}", INSTALL)
    check = _package("ffcv")
    try:
        for library in Path(found.origin).parent.parent.glob("ffcv/_libffcv*.so"):
            ctypes.CDLL(str(library))
    except OSError as error:
        return Check("ffcv", "fail", f"{check.detail}, but its compiled library does not load: {error}", INSTALL)
    return check


def _missing_build_tools() -> list[str]:
    missing = [] if shutil.which("c++") else ["a C++ compiler"]
    if not shutil.which("pkg-config"):
        return [*missing, "pkg-config"]
    libraries = ("opencv4", "libturbojpeg")
    return missing + [name for name in libraries if subprocess.run(["pkg-config", "--exists", name]).returncode]


def _gpu_kernels() -> list[Check]:
    """Compare the kernels for GPUs with torch's on the default network, where there is a GPU."""
    if not torch.cuda.is_available():
        return []
    name = "GPU kernels"
    try:
        found = TRITON.implementation()
    except ImplementationError as error:
        return [Check(name, "fail", str(error), f"unset {KERNELS.variable}")]
    if not found.native:
        return [Check(name, "ok", str(found))]
    network = NetworkConfig()
    dropped = [
        phrase
        for dtype in TRITON.dtypes
        for phrase in check_kernels(network, (network.resolution,), torch.device("cuda", 0), dtype)
    ]
    if dropped:
        phrases = "; ".join(dict.fromkeys(dropped))
        return [Check(name, "warn", f"{found}; torch computes {phrases}", "please report it: results stay right")]
    return [Check(name, "ok", f"{found}, agree with torch's")]


def _graphs() -> list[Check]:
    """Say whether steps on this machine's GPUs are to be replayed as CUDA graphs."""
    if not torch.cuda.is_available():
        return []
    said = "steps are replayed" if graph_wanted() else f"off; {VARIABLE}=on replays steps"
    return [Check("CUDA graphs", "ok", said)]


def _compiled(library: Library) -> Check:
    try:
        found = library.implementation()
    except ImplementationError as error:
        hint = f"unset {library.variable}" if library.requested() else "see the sentence on decoders in docs/guide.md"
        return Check(library.role, "fail", str(error), hint)
    return Check(library.role, "warn" if found.hint else "ok", str(found), found.hint)
