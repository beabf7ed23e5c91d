"""ImageNet from its three archives: torchvision's labels for every image, and clear errors for what is not whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import (
    CLASSES,
    KIT,
    TRAIN,
    TRAIN_IMAGES,
    VAL,
    VAL_IMAGES,
    kit_files,
    packed,
    picture,
    train_files,
    write_twin,
)
from torchvision.datasets import ImageNet
from torchvision.datasets import imagenet as torchvisions

from reproduce.data import DataError, load_manifest, source_from
from reproduce.data.reading.imagenet import check_archives, list_archives, read_kit
from reproduce.data.writing import prepare
from reproduce.export.class_names import class_names


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    return write_twin(tmp_path / "imagenet")


def test_labels_order_and_bytes_are_torchvisions_for_every_image(twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = list_archives(twin)
    sums = {
        name: (file, hashlib.md5((twin / file).read_bytes(), usedforsecurity=False).hexdigest())
        for name, (file, _) in torchvisions.ARCHIVE_META.items()
    }
    monkeypatch.setattr(torchvisions, "ARCHIVE_META", sums)
    for split, images in (("train", TRAIN_IMAGES * len(CLASSES)), ("val", VAL_IMAGES)):
        theirs = ImageNet(twin, split=split)
        samples = listing.splits[split]  # type: ignore[index]
        assert len(samples) == images
        assert [(sample.name, sample.label) for sample in samples] == [
            (str(Path(path).relative_to(twin)), label) for path, label in theirs.samples
        ]
        for sample, (path, _) in zip(samples, theirs.samples, strict=True):
            assert listing.reader.read(sample) == Path(path).read_bytes()
        assert list(listing.classes) == theirs.wnids
        assert [tuple(read_kit(twin / KIT).names[name].split(", ")) for name in listing.classes] == theirs.classes


def test_a_number_of_classes_is_spread_over_all_of_them(twin: Path) -> None:
    listing = list_archives(twin, 2)
    assert listing.classes == ("n01440764", "n02105855")
    assert {sample.label for samples in listing.splits.values() for sample in samples} == {0, 1}
    assert len(listing.splits["train"]) == 2 * TRAIN_IMAGES
    assert {sample.name.split("/")[1] for sample in listing.splits["val"]} == set(listing.classes)


def test_a_file_names_the_classes(twin: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# mine\nn15075141 toilet tissue\n\nn01443537\n", encoding="utf-8")
    assert list_archives(twin, tmp_path / "mine.txt").classes == ("n01443537", "n15075141")


def test_progress_counts_the_classes(twin: Path) -> None:
    told: list[tuple[str, int, int]] = []
    list_archives(twin, progress=lambda *report: told.append(report))
    assert told == [("listing classes", number, 5) for number in (1, 2, 3, 4, 5)]


# --- what is not whole -----------------------------------------------------------------------------


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return spoil


def replaced(name: str, content: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def kit_with(name: str, content: bytes) -> Callable[[Path], None]:
    files = {path: content if path.endswith(name) else old for path, old in kit_files().items()}
    return replaced(KIT, packed(files, "w:gz"))


TARS = {f"{name}.tar": packed(files) for name, files in train_files().items()}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / VAL).unlink(), rf"{VAL}: no such file; the folder needs {TRAIN}"),
        (cut(TRAIN, 0.5), r"truncated within n\d+\.tar; download it again"),
        (cut(VAL, 0.5), "truncated within ILSVRC2012_val_"),
        (cut(KIT, 0.5), "not the development kit, or damaged"),
        (replaced(TRAIN, b"not a tar" * 100), f"{TRAIN}: not a tar"),
        (replaced(TRAIN, packed({"n01440764_1.JPEG": picture(1)})), "n01440764_1.JPEG is not the tar of a class"),
        (replaced(TRAIN, packed({**TARS, "n00000001.tar": b""})), f"n00000001.tar is no class of {KIT}"),
        (replaced(TRAIN, packed({**TARS, "n01440764.tar": packed({})})), "n01440764.tar holds no image"),
        (replaced(TRAIN, packed({**TARS, "n01440764.tar": b"x" * 2000})), "n01440764.tar: not a tar"),
        (replaced(VAL, packed({"ILSVRC2012_val_00000001.JPEG": picture(1)})), "1 images, and .* has labels for 15"),
        (
            replaced(KIT, packed({"other_kit/readme.txt": b"2010"}, "w:gz")),
            "has no data/meta.mat; is it the development kit",
        ),
        (kit_with("meta.mat", b"MATLAB 5.0"), "data/meta.mat is not the list of classes"),
        (kit_with("ground_truth.txt", b"1\ntwo\n"), "is not one number on each line"),
        (kit_with("ground_truth.txt", b"449\n" * 14 + b"7\n"), "names class 7, which data/meta.mat does not have"),
        (kit_with("ground_truth.txt", b"449\n" * 15), f"{VAL}: no image of class n01443537"),
    ],
)
def test_what_is_missing_or_damaged_is_named(spoil: Callable[[Path], object], said: str, twin: Path) -> None:
    spoil(twin)
    with pytest.raises(DataError, match=said):
        list_archives(twin)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("n99999999\nn01440764\n", "'n99999999' is no class"),
        ("n01440764\nn01440764\n", "2 lines name 1 classes"),
        ("", "0 lines name 0 classes"),
    ],
)
def test_a_wrong_list_of_classes_is_refused(content: str, said: str, twin: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        list_archives(twin, tmp_path / "mine.txt")


@pytest.mark.parametrize("number", [0, 1, 6])
def test_a_number_of_classes_that_there_are_not_is_refused(number: int, twin: Path) -> None:
    with pytest.raises(DataError, match=f"classes: {number}; use a number from 2 to 5"):
        list_archives(twin, number)


def test_an_archive_that_is_not_the_official_one_is_told_by_its_checksum(twin: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with pytest.raises(DataError, match=rf"{TRAIN}: MD5 [0-9a-f]+, and the official archive has 1d675b47"):
        check_archives(twin, lambda *report: told.append(report))
    size = (twin / TRAIN).stat().st_size
    assert told[-1] == (f"checking {TRAIN}", size, size)


# --- as a source -----------------------------------------------------------------------------------


def test_prepared_archives_are_the_same_data_as_the_unpacked_folder(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed_hash = prepare(source_from(f"imagenet:{twin},checksums=off"), tmp_path / "packed").hash
    sums = {
        name: (file, hashlib.md5((twin / file).read_bytes(), usedforsecurity=False).hexdigest())
        for name, (file, _) in torchvisions.ARCHIVE_META.items()
    }
    monkeypatch.setattr(torchvisions, "ARCHIVE_META", sums)
    for split in ("train", "val"):
        ImageNet(twin, split=split)  # unpacks
    assert prepare(source_from(str(twin)), tmp_path / "unpacked").hash == packed_hash


def test_archives_are_checked_unless_the_source_says_otherwise(twin: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="add ,checksums=off to the source"):
        prepare(source_from(f"imagenet:{twin}"), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_subset_says_so_in_its_manifest(twin: Path, tmp_path: Path) -> None:
    manifest = prepare(source_from(f"imagenet:{twin},classes=2,checksums=off"), tmp_path / "out")
    assert (manifest.source, manifest.origin) == ("imagenet", "imagenet,classes=2")
    assert manifest.classes == ("n01440764", "n02105855")
    assert manifest.splits["train"].images == 2 * TRAIN_IMAGES


def test_a_subset_keeps_the_names_of_the_kit_and_a_manifest_without_them_stays_readable(
    twin: Path, tmp_path: Path
) -> None:
    manifest = prepare(source_from(f"imagenet:{twin},classes=2,checksums=off"), tmp_path / "out")
    assert manifest.class_names == ("name of n01440764, another", "name of n02105855, another")
    assert class_names(manifest) == ("name of n01440764", "name of n02105855")
    path = tmp_path / "out" / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["class_names"]
    path.write_text(json.dumps(content), encoding="utf-8")
    old = load_manifest(tmp_path / "out")
    assert (old.hash, class_names(old)) == (manifest.hash, manifest.classes)
    again = prepare(source_from(f"imagenet:{twin},classes=2,checksums=off"), tmp_path / "out")
    assert again == old, "the data set is the same, and nothing is written"


def test_classes_with_the_same_first_name_keep_all_their_names(twin: Path, tmp_path: Path) -> None:
    manifest = prepare(source_from(f"imagenet:{twin},classes=2,checksums=off"), tmp_path / "out")
    cranes = manifest.model_copy(update={"class_names": ("crane", "crane, hoist")})
    assert class_names(cranes) == ("crane", "crane, hoist")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("imagenet", "no folder"),
        ("imagenet:x,class=3", "'class=3': unknown"),
        ("imagenet:x,checksums=maybe", "unknown"),
    ],
)
def test_a_source_that_is_written_wrongly_is_refused(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        source_from(text)
