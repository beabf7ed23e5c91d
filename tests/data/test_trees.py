"""Folders and tars as machines leave them: what is passed over, what is refused, and what links mean."""

from __future__ import annotations

import bz2
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from reproduce.data import DataError, folder, load_manifest, tar
from reproduce.data.reading.trees import list_folder, list_tar
from reproduce.data.writing import PrepareConfig, prepare

CONFIG = PrepareConfig(workers=1)


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 9), (shade, 255 - shade, 7)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes with two training images and one validation image each."""
    root = tmp_path / "images"
    for shade, name in enumerate(
        ("train/ant/a", "train/ant/b", "train/bee/a", "train/bee/b", "val/ant/a", "val/bee/a")
    ):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(40 * shade))
    return root


def packed(images: Path, *also: tuple[str, bytes | str, bytes], mode: str = "w") -> Path:
    """A tar of the folder and then of further members: name, content or target of a link, and type."""
    path = images.parent / "images.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(images, arcname=".")
        for name, content, kind in also:
            member = tarfile.TarInfo(name)
            member.type = kind
            if isinstance(content, str):
                member.linkname = content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def systems_leavings(images: Path) -> None:
    (images / "train/@eaDir/ant").mkdir(parents=True)
    (images / "train/@eaDir/ant/thumb.jpg").write_bytes(b"")
    for place in ("train/ant", "val/bee"):
        (images / place / "@eaDir").mkdir()
        (images / place / "@eaDir/a.png").write_bytes(picture(9))
        (images / place / "Thumbs.db").write_bytes(b"thumbs")
    (images / "train/lost+found").mkdir()
    (images / "train/bee/desktop.ini").write_text("[.ShellClassInfo]", encoding="utf-8")
    (images / "train/bee/.DS_Store").write_bytes(b"\0")
    (images / "train/bee/._a.png").write_bytes(b"\0\5\x16\7")
    (images / "train/.cache").mkdir()


NOTE = "10 names that systems leave passed over: @eaDir (3), Thumbs.db (2), .DS_Store (1), ._* (1), .cache (1), ..."


def test_what_systems_leave_in_a_folder_changes_nothing_and_is_counted(images: Path, tmp_path: Path) -> None:
    clean = prepare(folder(images), tmp_path / "clean", CONFIG)
    systems_leavings(images)
    found = prepare(folder(images), tmp_path / "out", CONFIG)
    assert (found.hash, found.classes, found.fingerprint) == (clean.hash, clean.classes, clean.fingerprint)
    assert clean.notes == ()
    assert load_manifest(tmp_path / "out").notes == (NOTE,)


def test_what_systems_leave_in_a_tar_changes_nothing_and_is_counted(images: Path, tmp_path: Path) -> None:
    clean = prepare(tar(packed(images)), tmp_path / "clean", CONFIG)
    systems_leavings(images)
    found = prepare(tar(packed(images, ("__MACOSX/train/ant/._a.png", b"x", b"0"))), tmp_path / "out", CONFIG)
    assert (found.hash, found.classes) == (clean.hash, clean.classes)
    assert "11 names that systems leave" in found.notes[0]


def test_a_folder_beside_that_macos_leaves_does_not_hide_the_images(images: Path, tmp_path: Path) -> None:
    (tmp_path / "unzipped/__MACOSX/train").mkdir(parents=True)
    shutil.move(images, tmp_path / "unzipped/images")
    tree, _ = list_folder(tmp_path / "unzipped")
    assert len(tree.files) == 6


def test_a_file_that_is_no_image_by_its_name_is_passed_over_and_a_damaged_image_is_not(
    images: Path, tmp_path: Path
) -> None:
    clean = prepare(folder(images), tmp_path / "clean", CONFIG)
    for name in ("train/ant/labels.csv", "train/ant/README.TXT", "val/bee/boxes.xml", "train/classes.csv"):
        (images / name).write_bytes(b"text")
    found = prepare(folder(images), tmp_path / "out", CONFIG)
    assert found.hash == clean.hash
    assert found.notes == (
        "4 files passed over, being no images by their names: .csv (2), .txt (1), .xml (1), "
        "such as train/ant/README.TXT",
    )
    for name in ("train/ant/c.HEIC", "train/bee/c", "train/bee/d.jpg"):
        (images / name).write_bytes(b"text")
    with pytest.raises(DataError, match=r"3 unreadable images(.|\n)*c\.HEIC(.|\n)*bee/c(.|\n)*d\.jpg"):
        prepare(folder(images), tmp_path / "other", CONFIG)


def test_a_class_of_files_with_an_unknown_suffix_says_so(images: Path, tmp_path: Path) -> None:
    for name in "ab":
        (images / f"train/ant/{name}.png").rename(images / f"train/ant/{name}.data")
    with pytest.raises(DataError, match=r"no images in train/ant; .* 2 files passed over.*\.data \(2\)"):
        prepare(folder(images), tmp_path / "out", CONFIG)


def test_deeper_folders_and_images_without_a_class_are_said(images: Path) -> None:
    (images / "train/ant/more").mkdir()
    shutil.copy(images / "train/ant/a.png", images / "train/ant/more/c.png")
    shutil.copy(images / "train/ant/a.png", images / "train/d.png")
    for tree, _ in (list_folder(images), list_tar(packed(images), images.parent)):
        assert tree.notes() == (
            "1 file in no class folder left out, such as train/d.png",
            "1 image in folders within a class folder taken as images of the class, such as train/ant/more/c.png",
        )


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda root: os.mkfifo(root / "train/ant/c.png"),
            r"train/ant/c\.png: no file, but a device, a socket or a pipe",
        ),
        (lambda root: (root / "train/ant/c.png").symlink_to("/dev/zero"), "no file, but a device"),
        (lambda root: (root / "train/ant/c.png").symlink_to("gone.png"), r"train/ant/c\.png: leads nowhere"),
        (lambda root: (root / "train/ant/c.png").symlink_to("c.png"), r"train/ant/c\.png: leads nowhere"),
        (lambda root: (root / "train/ant/c").symlink_to(".."), r"links back to a folder that contains it"),
        (lambda root: (root / "train/ant/c").symlink_to("c"), "leads nowhere"),
        (lambda root: (root / "train/cow.v2").symlink_to("gone"), r"train/cow\.v2: leads nowhere"),
        (lambda root: Path(os.fsdecode(bytes(root) + b"/train/\xff")).mkdir(), r"train/\\udcff: .* must be UTF-8"),
    ],
    ids=[
        "pipe",
        "endless device",
        "link to nothing",
        "link to itself",
        "link upwards",
        "folder's link",
        "class's link",
        "class name",
    ],
)
def test_what_would_hang_or_be_lost_in_a_folder_is_refused(
    spoil: Callable[[Path], None], said: str, images: Path, tmp_path: Path
) -> None:
    spoil(images)
    with pytest.raises(DataError, match=said):
        prepare(folder(images), tmp_path / "out", CONFIG)
    assert list((tmp_path / "out").iterdir()) == []


def test_links_to_images_and_folders_are_followed(images: Path, tmp_path: Path) -> None:
    expected = prepare(folder(images), tmp_path / "expected", CONFIG)
    (tmp_path / "linked/train").mkdir(parents=True)
    (tmp_path / "linked/val").symlink_to(images / "val")
    (tmp_path / "linked/train/bee").symlink_to(images / "train/bee")
    (tmp_path / "linked/train/ant").mkdir()
    for name in "ab":
        (tmp_path / f"linked/train/ant/{name}.png").symlink_to(images / f"train/ant/{name}.png")
    assert prepare(folder(tmp_path / "linked"), tmp_path / "out", CONFIG).hash == expected.hash


def test_a_files_name_need_not_be_utf8(images: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(images) + b"/train/ant/\xff.png")).write_bytes(picture(1))
    Path(os.fsdecode(bytes(images) + b"/train/ant/\xff.txt")).write_bytes(b"")
    for source in (folder(images), tar(packed(images))):
        manifest = prepare(source, tmp_path / source.name, CONFIG)
        assert manifest.splits["train"].images == 5
        assert manifest.notes[0].endswith(r"\udcff.txt")


def test_links_within_a_tar_are_the_images_that_they_name(images: Path, tmp_path: Path) -> None:
    clean = prepare(folder(images), tmp_path / "clean", CONFIG)
    for name in ("train/ant/b.png", "val/bee/a.png"):
        (images / name).unlink()
    path = packed(
        images,
        ("pool/b.png", picture(40), tarfile.REGTYPE),
        ("pool/again.png", "./pool/b.png", tarfile.LNKTYPE),
        ("train/ant/b.png", "../../pool/again.png", tarfile.SYMTYPE),
        ("./val/bee/a.png", "val/bee/b.png", tarfile.SYMTYPE),
        ("val/bee/a.png", "pool/c.png", tarfile.LNKTYPE),
        ("pool/c.png", picture(200), tarfile.REGTYPE),
    )
    assert prepare(tar(path), tmp_path / "out", CONFIG).hash == clean.hash


def test_of_a_repeated_member_the_last_counts(images: Path, tmp_path: Path) -> None:
    expected = prepare(folder(images), tmp_path / "expected", CONFIG)
    (images / "train/ant/b.png").write_bytes(picture(99))
    found = prepare(tar(packed(images, ("train/ant/b.png", picture(40), b"0"))), tmp_path / "out", CONFIG)
    assert found.hash == expected.hash
    assert found.notes == ("1 member of the archive repeated, of which the last counts, such as train/ant/b.png",)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (
            ("train/ant/c.png", "/etc/c.png", tarfile.SYMTYPE),
            r"train/ant/c\.png: a link to etc/c\.png, which is no file",
        ),
        (("train/ant/c.png", "gone.png", tarfile.LNKTYPE), r"a link to gone\.png, .*--dereference"),
        (("train/ant/c.png", "c.png", tarfile.SYMTYPE), "a link to train/ant/c.png"),
        (("train/cow", "ant", tarfile.SYMTYPE), "train/cow: a link to train/ant"),
        (("train/cow.v2", "ant", tarfile.SYMTYPE), r"train/cow\.v2: a link to train/ant"),
        (("train/ant/more.d", "../bee", tarfile.SYMTYPE), r"train/ant/more\.d: a link to train/bee"),
        (("train/ant/c.png", "", tarfile.FIFOTYPE), "train/ant/c.png: a device or pipe"),
        (("one/train/ant/c.png", b"", tarfile.REGTYPE), None),
    ],
    ids=[
        *("out of the tar", "hard link to nothing", "itself", "folder", "folder with a dot", "folder in a class"),
        *("pipe", "a second set"),
    ],
)
def test_a_member_that_cannot_be_read_from_a_tar_is_refused(
    member: tuple[str, bytes | str, bytes], said: str | None, images: Path, tmp_path: Path
) -> None:
    path = packed(images, member)
    if said is None:
        assert len(list_tar(path, tmp_path)[0].files) == 6  # as in a folder, the set at the top is the one
        return
    with pytest.raises(DataError, match=said):
        list_tar(path, tmp_path)


def test_two_sets_in_a_tar_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "two.tar", "w") as archive:
        for name in ("one/train/ant/a.png", "two/train/ant/a.png"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match=r"lie in several folders \(one, two\)"):
        list_tar(tmp_path / "two.tar", tmp_path)


def test_damage_in_the_middle_of_a_tar_does_not_end_it_unseen(images: Path, tmp_path: Path) -> None:
    path = packed(images)
    with tarfile.open(path) as archive:
        header = archive.getmember("./train/bee/b.png").offset
    content = bytearray(path.read_bytes())
    content[header : header + 512] = b"\x55" * 512
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"damaged at byte {header}, where a member should begin"):
        list_tar(path, tmp_path)
    path.write_bytes(content[:header])
    with pytest.raises(DataError, match="truncated: it lacks the end marker"):
        list_tar(path, tmp_path)


def test_damaged_and_unknown_archives_are_told_in_one_sentence(images: Path, tmp_path: Path) -> None:
    path = packed(images)
    squeezed = bytearray(bz2.compress(path.read_bytes()))
    squeezed[len(squeezed) // 2] ^= 0xFF
    for content, said in (
        (bytes(squeezed), "damaged or truncated"),
        (b"PK\x03\x04" + bytes(600), "a zip; unpack it and give the folder"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed by zstd; unpack it"),
        (b"", "not a tar"),
        (b"GIF89a" + bytes(600), "not a tar"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=said):
            prepare(tar(path), tmp_path / "out", CONFIG)
