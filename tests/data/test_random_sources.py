"""Random folders, tars and manifests: a manifest that tells the truth or one sentence, never a traceback or a hang."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from reproduce.data import DataError, Source, folder, load_manifest, tar, verify
from reproduce.data.loading.engine import Loader
from reproduce.data.writing import PrepareConfig, prepare

SETTINGS = settings(
    max_examples=int(os.environ.get("DEEPER_EXAMPLES", "8")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def encoded(kind: str, mode: str, side: int) -> bytes:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side + 3, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode).save(file, kind)
    return file.getvalue()


PICTURES = [
    *(encoded("JPEG", mode, side) for mode in ("RGB", "L", "CMYK") for side in (1, 20, 100)),
    *(encoded("PNG", mode, 20) for mode in ("RGB", "L", "P", "1")),
    *(encoded("TIFF", mode, 20) for mode in ("RGB", "F", "I", "LAB", "CMYK")),
    *(
        encoded(kind, "RGB", 20)
        for kind in ("BMP", "GIF", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000", "DDS")
    ),
]
FOLDERS = ("train", "val", "ant", "bee", "cow", "more", "@eaDir", "__MACOSX", ".hidden", "v1.5", "\udcfe")
NAMES = (
    "a.jpg",
    "b.PNG",
    "c",
    "d.tif",
    "x.txt",
    "Thumbs.db",
    "._a.jpg",
    "é.gif",
    "\udcff.png",
    "e\n.jpg",
    "train",
    "ant",
)

paths = st.builds(
    lambda split, folders, name: "/".join([split, *folders, name]),
    st.sampled_from(["train", "val", "train", "val", "inner/train"]),
    st.lists(st.sampled_from(FOLDERS), max_size=3),
    st.sampled_from(NAMES),
)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """A picture, one with some bytes changed or the end cut off, or anything."""
    content = bytearray(draw(st.sampled_from(PICTURES)))
    match draw(st.sampled_from(["whole", "changed", "changed", "cut", "any"])):
        case "changed":
            for _ in range(draw(st.integers(1, 6))):
                place = draw(st.integers(0, len(content) - 1) | st.integers(0, min(len(content) - 1, 120)))
                content[place] = draw(st.integers(0, 255))
        case "cut":
            del content[draw(st.integers(0, len(content))) :]
        case "any":
            return draw(st.binary(max_size=60))
    return bytes(content)


targets = st.sampled_from(["a.jpg", "../ant", "..", "/dev/zero", "gone", "../../val", "../ant/b.jpg", "c"])
entries = st.tuples(paths, st.sampled_from(["file", "file", "file", "link", "pipe", "folder"]), contents(), targets)
BASE = [
    (f"{split}/{name}/{number}.jpg", "file", PICTURES[number], "")
    for split in ("train", "val")
    for name in ("ant", "bee")
    for number in (1, 2)
]


@contextmanager
def no_hang() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def is_told_truly(source: Source, out: Path, *, skip_bad: bool) -> bool:
    """Prepare it, and check what comes of it; returns whether it was prepared."""
    config = PrepareConfig(workers=1, skip_bad=skip_bad)
    try:
        with no_hang():
            manifest = prepare(source, out, config)
    except DataError:
        assert set(os.listdir(out)) <= {"train.beton", "manifest.json.partial"}
        return False
    assert verify(out) == manifest
    for split, entry in manifest.splits.items():
        pipelines = {"image": None, "label": None}
        loader = Loader(str(out / f"{split}.beton"), batch_size=1, num_workers=1, pipelines=pipelines)
        labels = loader.reader.metadata["f1"][: entry.images].tolist()
        assert labels == sorted(labels)
        assert len(labels) == entry.images
        assert set(labels) <= set(range(len(manifest.classes)))
    assert skip_bad or not any(entry.skipped for entry in manifest.splits.values())
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted(out.iterdir())]
    assert prepare(source, out, config) == manifest
    assert [(path.name, path.stat().st_mtime_ns) for path in sorted(out.iterdir())] == before
    return True


@SETTINGS
@given(also=st.lists(entries, max_size=6), skip_bad=st.booleans())
def test_any_folder(also: list[tuple[str, str, bytes, str]], skip_bad: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "images")
        for name, kind, content, target in [*BASE, *also]:
            path = root / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "folder":
                    path.mkdir()
                elif kind == "link":
                    path.symlink_to(target)
                elif kind == "pipe":
                    os.mkfifo(path)
                elif path.is_symlink() or not path.exists():
                    path.unlink(missing_ok=True)
                    path.write_bytes(content)
            except OSError:  # something else has the name
                continue
        is_told_truly(folder(root), Path(place, "out"), skip_bad=skip_bad)


KINDS = {"file": tarfile.REGTYPE, "pipe": tarfile.FIFOTYPE, "folder": tarfile.DIRTYPE}


@SETTINGS
@given(
    also=st.lists(entries, max_size=6),
    link=st.sampled_from([tarfile.SYMTYPE, tarfile.LNKTYPE]),
    packing=st.sampled_from(["w", "w", "w:gz", "w:bz2", "w:xz"]),
    layout=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
    kept=st.just(1.0) | st.floats(0, 1),
    skip_bad=st.booleans(),
)
def test_any_tar(  # type: ignore[no-untyped-def]
    also: list[tuple[str, str, bytes, str]],
    link: bytes,
    packing: str,
    layout: int,
    changes,
    kept: float,
    skip_bad: bool,
) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=packing, format=layout) as archive:  # type: ignore[call-overload]
        for name, kind, content, target in [*BASE, *also]:
            member = tarfile.TarInfo(name)
            member.type = KINDS.get(kind, link)
            member.linkname = target if kind == "link" else ""
            member.size = len(content) if kind == "file" else 0
            archive.addfile(member, io.BytesIO(content))
    changed = bytearray(file.getvalue())
    for share, value in changes:
        changed[int(share * len(changed))] = value
    with tempfile.TemporaryDirectory() as place:
        Path(place, "images.tar").write_bytes(changed[: int(kept * len(changed))])
        is_told_truly(tar(Path(place, "images.tar")), Path(place, "out"), skip_bad=skip_bad)


@pytest.mark.parametrize("archives", [60, pytest.param(600, marks=pytest.mark.long)])
def test_any_change_of_a_tars_headers(tmp_path: Path, archives: int) -> None:
    """Sizes, types and names of members are numbers and text that a program may have written wrongly."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, _, content, _ in BASE:
            member = tarfile.TarInfo(name.replace("ant/", "ant/é"))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    whole, path, random = file.getvalue(), tmp_path / "images.tar", np.random.default_rng(0)
    prepared = 0
    for number in range(archives):
        changed = bytearray(whole)
        with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
            start = int(random.choice([member.offset for member in archive])) + 512 * int(random.integers(0, 3))
        for _ in range(random.integers(1, 4)):
            changed[start + random.integers(0, 512)] = random.choice([0, 0x80, 0xFF, 0x2D, random.integers(256)])
        header = changed[start : start + 512]
        header[148:156] = b" " * 8
        changed[start + 148 : start + 156] = b"%06o\0 " % sum(header)  # the checksum, so that the change is believed
        path.write_bytes(changed)
        prepared += is_told_truly(tar(path), tmp_path / str(number), skip_bad=bool(number % 2))
        shutil.rmtree(tmp_path / str(number))
    assert archives / 15 < prepared < archives * 14 / 15


# --- manifests -----------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def data(synthetic_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic_data, tmp_path / "data"))


def places(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where in a manifest something stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from places(inner, (*path, key))


@SETTINGS
@given(draw=st.data())
def test_any_manifest_is_read_as_it_was_or_refused_in_a_sentence(data: Path, synthetic_data: Path, draw) -> None:  # type: ignore[no-untyped-def]
    manifest = json.loads((synthetic_data / "manifest.json").read_text(encoding="utf-8"))
    if draw.draw(st.booleans()):
        content = draw.draw(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
    else:
        *above, last = draw.draw(st.sampled_from(list(places(manifest))))
        inner = manifest
        for key in above:
            inner = inner[key]
        if draw.draw(st.booleans()):
            del inner[last]
        else:
            inner[last] = draw.draw(json_values)
        content = json.dumps(manifest).encode()
    (data / "manifest.json").write_bytes(content)
    try:
        found = verify(data)
    except DataError:
        return
    expected = load_manifest(synthetic_data)
    assert (found.hash, found.classes) == (expected.hash, expected.classes)
