"""`deeper predict`: the pixels of validation, the classes of every classifier, and the page."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from reproduce.data import load_manifest
from reproduce.data.encoding import UnreadableImageError
from reproduce.data.loading.loaders import ValLoader, ValLoaderConfig
from reproduce.data.manifest import PrepareOptions
from reproduce.data.sources import folder as folder_source
from reproduce.models import GoogLeNet
from reproduce.prediction.maps import branch_maps
from reproduce.prediction.page import render
from reproduce.prediction.pictures import find_images, validation_pixels
from reproduce.prediction.predicting import logits, normalised, predict
from reproduce.spec import NetworkConfig


@pytest.fixture(scope="module")
def network() -> GoogLeNet:
    torch.manual_seed(0)
    network = GoogLeNet(NetworkConfig(classes=3, resolution=64))
    torch.nn.init.normal_(network.fc.weight, std=0.5)
    return network.eval()


@pytest.fixture(scope="module")
def files(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The validation images in the order of the prepared data."""
    listing = folder_source(image_folder).open(tmp_path_factory.mktemp("scratch"), lambda *_: None)
    return [image_folder / sample.name for sample in listing.splits["val"]]


@torch.no_grad()
def test_a_picture_has_the_pixels_and_the_logits_of_validation(
    network: GoogLeNet, files: list[Path], photo_data: Path
) -> None:
    options = load_manifest(photo_data).options
    pixels = [validation_pixels(file, options, resolution=64, share=0.875) for file in files]
    loaded = next(iter(ValLoader(photo_data, ValLoaderConfig(batch_size=20, resolution=64))))[0]
    assert np.array_equal(np.stack(pixels), loaded.permute(0, 2, 3, 1).numpy())
    normal = next(iter(ValLoader(photo_data, ValLoaderConfig(batch_size=20, resolution=64, dtype=torch.float32))))[0]
    expected = network.eval()(normal).main
    torch.testing.assert_close(logits(network, pixels)["main"], expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_all_classifiers_predict_in_evaluation_mode(network: GoogLeNet, files: list[Path]) -> None:
    pixels = [validation_pixels(files[0], PrepareOptions(), resolution=64, share=0.875)] * 3
    (first, *_, last) = predict(network, files[:3], pixels)
    assert list(first.guesses) == ["main", "aux1", "aux2"]
    assert first.guesses == last.guesses, "without dropout, the same picture gives the same numbers"
    for guesses in first.guesses.values():
        assert sum(guess.probability for guess in guesses) == pytest.approx(1, abs=1e-5)
        assert [guess.probability for guess in guesses] == sorted((g.probability for g in guesses), reverse=True)


@torch.no_grad()
def test_the_maps_are_the_branches_of_the_modules_output(network: GoogLeNet, files: list[Path]) -> None:
    pixels = [validation_pixels(files[0], PrepareOptions(), resolution=64, share=0.875)]
    ((one, three, five, pool),) = branch_maps(network, "4a", pixels)
    assert [one.branch, three.branch, five.branch, pool.branch] == ["1x1", "3x3", "5x5", "pool"]
    assert (one.channels, three.channels, five.channels, pool.channels) == (192, 208, 48, 64)
    output: list[torch.Tensor] = []
    hook = network.inception4a.register_forward_hook(lambda *parts: output.append(parts[-1]))
    network.eval()(normalised(pixels))
    hook.remove()
    np.testing.assert_allclose(five.maps[0], output[0][0, 400 + five.strongest[0]].numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="'6a' is no module; use one of 3a, 3b"):
        branch_maps(network, "6a", pixels)


def test_the_page_is_self_contained_and_escapes_names(network: GoogLeNet, files: list[Path]) -> None:
    pixels = [validation_pixels(files[0], PrepareOptions(), resolution=64, share=0.875)]
    page = render(
        predict(network, [Path("<b>.jpg")], pixels),
        branch_maps(network, "3a", pixels),
        class_names=("ant", "<i>", "cat"),
        expected=[0],
        title="tiny:port:0",
        summary="tiny",
        data="photos",
        module="3a",
    )
    assert "<b>.jpg" not in page
    assert "<i>" not in page
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 1 + 4 * 9
    assert "ant ✓" in page


def test_names_stand_for_files_folders_and_patterns(image_folder: Path, tmp_path: Path) -> None:
    ant = image_folder / "val" / "ant"
    assert len(find_images([str(ant), str(ant / "rgb.JPEG"), str(image_folder / "val" / "*" / "rgb*")])) == 5
    for wrong, sentence in ((tmp_path, "holds no images"), (tmp_path / "*.jpg", "no such file")):
        with pytest.raises(ValueError, match=sentence):
            find_images([os.fspath(wrong)])


def test_a_damaged_picture_is_refused(files: list[Path], tmp_path: Path) -> None:
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(files[-1].read_bytes()[:200])
    with pytest.raises(UnreadableImageError):
        validation_pixels(torn, PrepareOptions(), resolution=64, share=0.875)
