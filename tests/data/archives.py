"""A small twin of ImageNet's three archives: the same layout and names, other pictures."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from reproduce.data.reading.imagenet import KIT, TRAIN, VAL

CLASSES = ("n01440764", "n01443537", "n02105855", "n03888257", "n15075141")
NUMBERS = {"n01440764": 449, "n01443537": 3, "n02105855": 120, "n03888257": 78, "n15075141": 990}
"""The kit numbers classes in an order of its own, not that of the WordNet ids."""
PARENT = "n00001740"  # a synset with children: the kit has 860 of them, and no image shows one
TRAIN_IMAGES, VAL_IMAGES = 6, 15


def picture(seed: int, kind: str = "rgb") -> bytes:
    """One encoded image; kinds are the odd ones that ImageNet holds."""
    random = np.random.default_rng(seed)
    height, width = random.integers(40, 90, 2)
    image = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), np.uint8)).resize((width, height))
    file = io.BytesIO()
    match kind:
        case "cmyk":
            image.convert("CMYK").save(file, "JPEG", quality=90)
        case "grey":
            image.convert("L").save(file, "JPEG", quality=90)
        case "png":  # n02105855_2933.JPEG is a PNG
            image.save(file, "PNG")
        case "rotated":
            exif = Image.Exif()
            exif[0x0112] = 6  # Orientation: rotate by 90 degrees
            image.save(file, "JPEG", quality=90, exif=exif)
        case _:
            image.save(file, "JPEG", quality=90)
    return file.getvalue()


def packed(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def train_files() -> dict[str, dict[str, bytes]]:
    odd = {("n02105855", 3): "png", ("n01443537", 1): "cmyk", ("n03888257", 2): "rotated", ("n15075141", 0): "grey"}
    return {
        wordnet_id: {
            # Names are not in the order of their numbers as text.
            f"{wordnet_id}_{number * 7 + 2}.JPEG": picture(place * 100 + number, odd.get((wordnet_id, number), "rgb"))
            for number in range(TRAIN_IMAGES)
        }
        for place, wordnet_id in enumerate(CLASSES)
    }


def ground_truth() -> list[int]:
    return [NUMBERS[CLASSES[(number * 3) % len(CLASSES)]] for number in range(VAL_IMAGES)]


def meta() -> bytes:
    """`meta.mat`, with the fields of the kit's."""
    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    rows = [
        (NUMBERS[name], name, f"name of {name}, another", "what it is", 0, np.zeros(0), 0, TRAIN_IMAGES)
        for name in CLASSES
    ]
    rows.append((1001, PARENT, "entity", "that which is", 2, np.array([449, 3]), 4, 0))
    table = np.empty((len(rows), 1), dtype=[(field, object) for field in fields])
    for place, row in enumerate(rows):
        table[place, 0] = row
    file = io.BytesIO()
    savemat(file, {"synsets": table})
    return file.getvalue()


def kit_files() -> dict[str, bytes]:
    truth = "".join(f"{number}\n" for number in ground_truth())
    return {
        "ILSVRC2012_devkit_t12/readme.txt": b"ILSVRC 2012\n",
        "ILSVRC2012_devkit_t12/data/meta.mat": meta(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }


def write_twin(folder: Path) -> Path:
    """Write the three archives into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = {f"{name}.tar": packed(files) for name, files in reversed(train_files().items())}
    (folder / TRAIN).write_bytes(packed(classes))
    images = {f"ILSVRC2012_val_{number + 1:08}.JPEG": picture(1000 + number) for number in range(VAL_IMAGES)}
    (folder / VAL).write_bytes(packed(dict(reversed(images.items()))))
    (folder / KIT).write_bytes(packed(kit_files(), "w:gz"))
    return folder
