"""Averaged probabilities agree with a simple reference, over several models, and for all world sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import opinionated, run_model
from PIL import Image
from reference import crops_10, crops_144
from torchvision.models import googlenet
from torchvision.transforms.functional import normalize, pil_to_tensor

from reproduce.data.loading.loaders import ValLoader, ValLoaderConfig
from reproduce.data.loading.normalise import Normalise
from reproduce.evaluation.distributed import evaluate_in_workers
from reproduce.evaluation.ensemble import EvaluationConfig, averaged_probabilities, evaluate
from reproduce.evaluation.image_results import read_results
from reproduce.evaluation.models import EvaluationError, FileModel, ModelReference, RunModel
from reproduce.evaluation.protocols import Protocol
from reproduce.execution.ranks import Ranks
from reproduce.execution.validation import validate
from reproduce.models import GoogLeNet
from reproduce.models.interchange import InterchangeError
from reproduce.training import checkpoint

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)


def probabilities(models: Sequence[ModelReference], data: Path, protocol: Protocol) -> torch.Tensor:
    batches = list(averaged_probabilities(models, data, protocol, ALONE, threads=1))
    numbers = torch.cat([batch.indices for batch in batches])
    return torch.cat([batch.probabilities for batch in batches])[numbers.argsort()]


@torch.inference_mode()
def reference_probabilities(model: RunModel, crops: Any, files: list[Path]) -> torch.Tensor:
    """Averaged probabilities, computed one image at a time."""
    content = torch.load(model.folder / checkpoint.FILE_NAME)
    network = GoogLeNet(model.run.network)
    network.load_state_dict((content["averaged"] or content)["network"])
    network.eval()
    means = []
    for file in files:
        pictures = crops(Image.open(file), model.run.recipe.resolution)
        inputs = torch.stack([pil_to_tensor(picture) / 255 for picture in pictures])
        logits = network(normalize(inputs, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])).main
        means.append(logits.softmax(1).mean(0))
    return torch.stack(means).double()


@pytest.mark.parametrize(
    ("protocol", "crops", "averaging"),
    [("10-crop", crops_10, "none"), ("10-crop", crops_10, "ema"), ("144-crop", crops_144, "none")],
)
def test_probabilities_agree_with_the_reference(
    tmp_path: Path, jpeg_data: Path, files: list[Path], protocol: Protocol, crops: Any, averaging: str
) -> None:
    model = run_model(tmp_path, jpeg_data, averaging=averaging)
    expected = reference_probabilities(model, crops, files)
    assert expected.std(0).min() > 0.02  # or any image's would do
    torch.testing.assert_close(probabilities([model], jpeg_data, protocol), expected, rtol=0, atol=1e-4)


def test_an_ensemble_is_the_mean_of_its_models_whatever_their_resolutions(tmp_path: Path, raw_data: Path) -> None:
    models = [run_model(tmp_path / str(side), raw_data, seed=side, resolution=side) for side in (32, 48)]
    for protocol in ("single", "10-crop"):
        alone = torch.stack([probabilities([model], raw_data, protocol) for model in models])
        assert (alone[0] - alone[1]).abs().max() > 0.02
        torch.testing.assert_close(probabilities(models, raw_data, protocol), alone.mean(0), rtol=0, atol=1e-12)


def test_the_single_crop_is_the_runs_own_validation(tmp_path: Path, synthetic_data: Path) -> None:
    model = run_model(tmp_path / "run", synthetic_data, resolution=32, batch_size=7, averaging="polyak")
    averaged = model.load(CPU).network
    loader = ValLoader(synthetic_data, ValLoaderConfig(batch_size=7, resolution=32, val_crop=model.run.recipe.val_crop))
    expected = validate(averaged, loader, Normalise(), ALONE, dtype=torch.float32, predictions=True)
    found = evaluate(EvaluationConfig([model], synthetic_data, "single", threads=1), ALONE)
    assert (found.top1, found.top5) == (expected.top1, expected.top5)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)  # float64 here, float32 there
    assert expected.predictions is not None
    assert found.predictions is not None
    for name, column in expected.predictions.items():
        np.testing.assert_array_equal(found.predictions[name], column)


def test_world_sizes_1_2_and_3_agree_bit_for_bit(tmp_path: Path, raw_data: Path) -> None:
    config = EvaluationConfig([run_model(tmp_path, raw_data)], raw_data, "144-crop", threads=1)
    progress: list[int] = []
    alone, *others = (evaluate_in_workers(config, workers=workers, progress=progress.append) for workers in (1, 2, 3))
    assert 6 in progress
    for other in others:
        assert (other.loss, other.top1, other.top5) == (alone.loss, alone.top1, alone.top5)
        assert other.predictions is not None
        assert alone.predictions is not None
        for name, column in alone.predictions.items():
            np.testing.assert_array_equal(other.predictions[name], column)


@pytest.mark.parametrize("protocol", ["single", "144-crop"])
def test_a_stopped_evaluation_can_be_continued_by_other_workers(
    tmp_path: Path, raw_data: Path, protocol: Protocol
) -> None:
    folder = tmp_path / "parts"
    config = EvaluationConfig([run_model(tmp_path, raw_data, batch_size=2)], raw_data, protocol, threads=1)
    whole = evaluate(config, ALONE)
    config = replace(config, results_folder=folder)

    def stop(images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(config, ALONE, progress=stop)
    known = read_results(folder)
    assert known is not None
    assert 0 < len(known.number) < 6
    progress: list[int] = []
    rest = evaluate_in_workers(replace(config, known=known), workers=2, progress=progress.append)
    assert max(progress) == 6 - len(known.number)
    assert (rest.loss, rest.top1, rest.top5) == (whole.loss, whole.top1, whole.top5)
    everything = read_results(folder)
    assert everything is not None
    assert everything.number.tolist() == list(range(6))
    part = next(folder.glob("*.npz"))
    for damaged in (part.read_bytes()[:-30], b"", b"\x00" * 100, part.read_bytes().replace(b"number", b"nomber")):
        (folder / "damaged.npz").write_bytes(damaged)
        again = read_results(folder)
        assert again is not None
        assert again.number.tolist() == list(range(6))


@pytest.mark.parametrize("transform_input", [True, False])
def test_torchvisions_weights_give_torchvisions_probabilities(
    tmp_path: Path, raw_data: Path, transform_input: bool
) -> None:
    torch.manual_seed(0)
    theirs = googlenet(num_classes=2, aux_logits=False, init_weights=False, transform_input=transform_input)
    opinionated(theirs, raw_data, 224)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = FileModel(tmp_path / "weights.pth", "torchvision", transform_input)
    model.check()
    images, _, _ = next(iter(ValLoader(raw_data, ValLoaderConfig(batch_size=6, resolution=224, val_crop=224 / 256))))
    normalised = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.inference_mode():
        expected = theirs.eval()(normalised).double().softmax(1)
    assert expected.std(0).min() > 0.08
    ours = model.load(CPU)
    tolerance = 4e-2 if ours.dtype is torch.bfloat16 else 1e-4
    torch.testing.assert_close(probabilities([model], raw_data, "single"), expected, rtol=0, atol=tolerance)


def test_models_that_cannot_be_evaluated_are_named(tmp_path: Path, synthetic_data: Path) -> None:
    missing = run_model(tmp_path / "missing", synthetic_data)
    (missing.folder / checkpoint.FILE_NAME).unlink()
    with pytest.raises(EvaluationError, match=f"run {missing.name}: no checkpoint.pt in"):
        missing.check()
    with pytest.raises(EvaluationError, match="stands at epoch 0 of 1; finish it"):
        run_model(tmp_path / "part", synthetic_data, finished=False).check()
    with pytest.raises(EvaluationError, match=r"--weights: nowhere\.pth: no such file"):
        FileModel(Path("nowhere.pth"), "torchvision").check()
    (tmp_path / "text.pth").write_text("no weights", encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"text\.pth: not a state dict"):
        FileModel(tmp_path / "text.pth", "torchvision").check()
    torch.save(googlenet(num_classes=2, aux_logits=False, init_weights=False).state_dict(), tmp_path / "own.pth")
    with pytest.raises(EvaluationError, match=r"--transform-input: own\.pth is not the file that torchvision"):
        FileModel(tmp_path / "own.pth", "torchvision").check()
    with pytest.raises(InterchangeError, match="plain layout: missing"):
        FileModel(tmp_path / "own.pth", "plain").check()
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "more.pth")
    with pytest.raises(EvaluationError, match=r"more\.pth: not a state dict: 'epoch' names no tensor"):
        FileModel(tmp_path / "more.pth", "torchvision", transform_input=False).check()
    content = bytearray((tmp_path / "own.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "own.pth").write_bytes(content)
    with pytest.raises(EvaluationError, match=r"own\.pth: damaged: .* does not have its CRC-32"):
        FileModel(tmp_path / "own.pth", "torchvision", transform_input=False).check()
