"""What this machine has for the suite, what is missing and the cure: the checks of `deeper doctor`.

A check is *ok*, *warn* (works, but slower or not everything) or *fail* (nothing runs before it is cured). Quick: of
the heavy packages only torch is imported, the others are asked for their version.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.machine import nvml
from bench.machine.filesystems import filesystem
from bench.planning import placement
from bench.tracking.store import tracking_uri
from reproduce.data import DataError, load_manifest
from reproduce.native import LIBRARIES, ImplementationError, Library

Status = Literal["ok", "warn", "fail"]

GIB = 2**30
RECORDS_GIB = 2  # a small grid's records: checkpoints of some 50 to 110 MB a run, telemetry, predictions
DATA_GIB = 20  # ImageNet as FFCV files at 256 px takes some 20 to 60 GiB, the small sets under one
SHM_GIB = 1  # Ray's object store (256 MiB suffice) and NCCL's buffers
MEMORY_GIB = 8

_SET_UP = "make setup"
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True)
class Check:
    """One line of the doctor's findings."""

    name: str
    status: Status
    detail: str
    """What was found."""
    cure: str = ""
    """What to do about it; empty where there is nothing to do."""


def doctor(records: Path, data: Path) -> list[Check]:
    """All checks of this machine, with the folders that records and prepared data go to (they need not exist yet)."""
    return [
        _python(),
        _torch(),
        _precision(),
        _package("torchvision"),
        _ffcv(),
        *map(_compiled, LIBRARIES),
        _package("ray"),
        _mlflow(),
        _gpus(),
        _cores(),
        _threads_and_ranks(),
        _memory(),
        _shared_memory(),
        _slurm(),
        _disk("disk for records", records, RECORDS_GIB, "--records"),
        _file_system(records),
        _disk("disk for data", data, DATA_GIB, "--data"),
        _data_sets(data),
        _tracking(records),
    ]


def run_doctor(*, records: Path, data: Path, as_json: bool, cluster: Sequence[Check] = ()) -> int:
    """`deeper doctor`: prints the findings, those on the cluster last; 1 where something fails."""
    checks = [*doctor(records, data), *cluster]
    if as_json:
        print(to_json(checks))
    else:
        Console().print(table(checks))
    return 1 if any(check.status == "fail" for check in checks) else 0


def table(checks: Sequence[Check]) -> Table:
    """The findings for a terminal."""
    rows = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found", "cure"):
        rows.add_column(heading, overflow="fold")
    for check in checks:
        colour = _COLOURS[check.status]
        rows.add_row(
            f"[{colour}]{check.status}[/{colour}]", escape(check.name), escape(check.detail), escape(check.cure)
        )
    return rows


def to_json(checks: Sequence[Check]) -> str:
    """The findings for a program: a list of objects with the fields of `Check`."""
    return json.dumps([asdict(check) for check in checks], indent=2)


# --- software --------------------------------------------------------------------------------------


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Check:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    device = f"{torch.cuda.device_count()} GPUs" if torch.cuda.is_available() else "trains on CPU"
    return Check("torch", "ok", f"{torch.__version__} ({build} build), {device}, {torch.get_num_threads()} threads")


def _precision() -> Check:
    if torch.cuda.is_available():
        device, native = "GPU", torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities()
        device, native = "CPU", any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if native:
        return Check("bf16", "ok", f"{device} has bf16 arithmetic")
    return Check("bf16", "warn", f"{device} has no bf16 arithmetic: precision auto trains in float32, slower")


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", _SET_UP)


def _mlflow() -> Check:
    check = _package("mlflow")
    if check.status == "ok":
        return check
    return Check("mlflow", "warn", "not installed: no reports here", "deeper run --no-publish; report elsewhere")


def _ffcv() -> Check:
    """FFCV comes as source: what counts is its compiled half, or what is there to compile it with."""
    found = importlib.util.find_spec("ffcv")
    if found is None or found.origin is None:
        lacking = _lacking_build_tools()
        means = f"lacking to build it: {', '.join(lacking)}" if lacking else "all it takes to build it is there"
        return Check("ffcv", "fail", f"not installed; {means}", _SET_UP)
    check = _package("ffcv")
    try:
        for library in Path(found.origin).parent.parent.glob("ffcv/_libffcv*.so"):
            ctypes.CDLL(str(library))
    except OSError as error:
        return Check("ffcv", "fail", f"{check.detail}, its compiled half does not load: {error}", _SET_UP)
    return check


def _compiled(library: Library) -> Check:
    try:
        found = library.implementation()
    except ImplementationError as error:
        return Check(library.role, "fail", str(error))
    return Check(library.role, "warn" if found.hint else "ok", str(found), found.hint)


def _lacking_build_tools() -> list[str]:
    lacking = [] if shutil.which("c++") else ["a C++ compiler"]
    if not shutil.which("pkg-config"):
        return [*lacking, "pkg-config"]
    libraries = ("opencv4", "libturbojpeg")
    return lacking + [name for name in libraries if subprocess.run(["pkg-config", "--exists", name]).returncode]


# --- hardware --------------------------------------------------------------------------------------


def _gpus() -> Check:
    try:
        devices = nvml.Nvml()
    except nvml.NvmlAbsent as reason:
        return Check("GPUs", "warn", f"{reason}: no GPU telemetry, training on CPU")
    names = [devices.name(uuid) for uuid in devices.uuids]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    found = ", ".join(f"{count} x {name}" for name, count in counts.items()) or "none"
    if not torch.cuda.is_available():
        needed = f"a driver for CUDA {torch.version.cuda}" if torch.version.cuda else "a CUDA build of torch"
        return Check("GPUs", "fail", f"{found}, but torch cannot use them", f"{needed}; look at CUDA_VISIBLE_DEVICES")
    return Check("GPUs", "ok", found)


def _cores() -> Check:
    allowed = len(psutil.Process().cpu_affinity() or [])
    return Check("cores", "ok" if allowed > 1 else "warn", f"{allowed} of {psutil.cpu_count()} may be used")


def _threads_and_ranks() -> Check:
    """What this machine's CPUs are best used as, where `deeper bench scaling` has measured it."""
    name, measured = "threads and ranks", placement.measured()
    if measured is None:
        return Check(name, "ok", "not measured: a run takes resources.cpus_per_worker", "deeper bench scaling")
    return Check(name, "ok", str(measured))


def _memory() -> Check:
    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    return _enough("memory", memory.available, MEMORY_GIB, found, "fewer workers or runs at once")


def _shared_memory() -> Check:
    free = shutil.disk_usage("/dev/shm").free
    cure = "in a container: --shm-size=4g; else Ray's objects go to disk"
    return _enough("/dev/shm", free, SHM_GIB, f"{free / GIB:.1f} GiB free", cure)


def _disk(name: str, folder: Path, wanted_gib: int, option: str) -> Check:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    return _enough(name, free, wanted_gib, f"{free / GIB:.1f} GiB free at {folder}", f"another place: {option} FOLDER")


def _file_system(records: Path) -> Check:
    """Whether several hosts may work on the records: runs are claimed by `flock`."""
    lies_on = filesystem(records)
    name, found = "file system of records", f"{lies_on.kind} at {lies_on.mount_point}"
    if not lies_on.is_network:
        return Check(name, "ok", found)
    reaches = lies_on.flock_reaches_other_hosts
    if reaches:
        return Check(name, "ok", f"{found}, locks reach other hosts")
    says = "locks do not reach other hosts" if reaches is False else "whether locks reach other hosts cannot be told"
    return Check(name, "warn", f"{found}, {says}", lies_on.locking_cure)


def _enough(name: str, free: float, wanted_gib: int, found: str, cure: str) -> Check:
    if free >= wanted_gib * GIB:
        return Check(name, "ok", found)
    return Check(name, "warn", f"{found}, {wanted_gib} GiB are comfortable", cure)


# --- surroundings ----------------------------------------------------------------------------------


def _slurm() -> Check:
    if not shutil.which("sinfo"):
        return Check("SLURM", "ok", "not here (only needed to submit to a cluster)")
    try:
        answer = subprocess.run(
            ["sinfo", "--version"], capture_output=True, text=True, timeout=10, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Check("SLURM", "warn", f"sinfo does not answer: {error}", "ask the cluster's operator")
    return Check("SLURM", "ok", answer.stdout.strip())


def _data_sets(data: Path) -> Check:
    folders = sorted(path.parent for path in data.glob("**/manifest.json"))
    if not folders:
        return Check("data sets", "warn", f"none prepared in {data}", "deeper data prepare --help")
    found = []
    for folder in folders:
        try:
            splits = load_manifest(folder).splits
        except DataError as error:
            return Check("data sets", "warn", str(error), "prepare it again")
        found.append(f"{folder.relative_to(data)} ({splits['train'].images} + {splits['val'].images} images)")
    return Check("data sets", "ok", ", ".join(found))


def _tracking(records: Path) -> Check:
    uri = tracking_uri(records)
    if not uri.startswith(("http://", "https://")):
        return Check("tracking", "ok", uri)
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            return Check("tracking", "ok", uri)
    except (urllib.error.URLError, TimeoutError) as error:
        cure = "start the server or unset MLFLOW_TRACKING_URI; until then records wait on disk"
        return Check("tracking", "warn", f"{uri} does not answer: {error}", cure)
