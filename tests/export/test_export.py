"""`deeper export` and what reads its files: torchvision's network, onnxruntime, safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torchvision.models import googlenet

from bench.cli import main
from bench.records.plan import write_plan
from bench.records.record import Record
from bench.records.states import run_folder
from reproduce import schema
from reproduce.data import load_manifest
from reproduce.data.loading.loaders import ValLoader, ValLoaderConfig
from reproduce.data.loading.normalise import MEAN
from reproduce.export.agreement import compare
from reproduce.export.agreement import main as agreement_main
from reproduce.export.loading import load
from reproduce.models import GoogLeNet
from reproduce.spec import DataConfig, NetworkConfig, PlannedRun, RecipeConfig, RunConfig, Seeds
from reproduce.training import checkpoint

PORT = {"large_kernel": "3x3", "pooling": "port"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, photo_data: Path) -> Path:
    """Records of two finished runs, of the port's network and of the paper's with averaged weights, and one of none."""
    folder = tmp_path_factory.mktemp("export")
    manifest, planned = load_manifest(photo_data), []
    for arm, network, averaging in (("port", PORT, "none"), ("paper", {}, "ema"), ("begun", {"norm": "none"}, "none")):
        config = NetworkConfig(classes=3, resolution=64, **network)
        recipe = RecipeConfig(
            epochs=2, batch_size=4, learning_rate=0.1, resolution=64, precision="bf16", averaging=averaging
        )
        run = RunConfig(
            data=DataConfig(path=photo_data.name),
            data_hash=manifest.hash,
            network=config,
            recipe=recipe,
            seeds=Seeds.of(0),
            workers=1,
        )
        _record(run_folder(folder / "records", run.key), run, finished=arm != "begun")
        planned.append(PlannedRun(experiment="tiny", arm=arm, seed=0, config=run))
    write_plan(folder / "records", "tiny", planned, {})
    return folder


def _record(folder: Path, run: RunConfig, *, finished: bool) -> None:
    keeper = Record(folder)
    keeper.begin(run, environment={"commit": "abc", "dirty": False}, world_size=1, device="cpu")
    states = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = GoogLeNet(run.network)
        torch.nn.init.normal_(network.fc.weight, std=0.5)
        # With the statistics of real maps, since the logits of all images would be those of dead units otherwise.
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            network(torch.randn(16, 3, run.network.resolution, run.network.resolution))
        states.append(network.state_dict())
    averages = run.recipe.averaging != "none"
    content = {"key": run.key, "epoch": 2 if finished else 1, "step": 0, "finished": finished, "network": states[0]}
    checkpoint.save(folder, {**content, "averaged": {"network": states[1], "steps": 4} if averages else None})
    keeper.epoch(0, {schema.VAL_TOP1: 0.25, schema.VAL_TOP5: 1.0})
    if finished:
        keeper.end(schema.FINISHED, metrics={schema.FINAL_TOP1: 0.5, schema.FINAL_TOP5: 1.0})
    else:
        keeper.end(schema.INTERRUPTED)


@pytest.fixture
def export(place: Path, photo_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `deeper export`; returns the exit code, the file, and what was printed."""

    def run(name: str, format: str, *options: str) -> tuple[int, Path, str]:
        output = tmp_path / f"{name.replace(':', '-')}.{format}"
        words = ["export", name, "--format", format, "--output", str(output), *options]
        code = main([*words, "--records", str(place / "records"), "--data", str(photo_data.parent)])
        printed = capsys.readouterr()
        return code, output, printed.out + printed.err

    return run


@pytest.fixture(scope="module")
def images(photo_data: Path) -> torch.Tensor:
    """The validation images, normalised."""
    loader = ValLoader(photo_data, ValLoaderConfig(batch_size=20, resolution=64, dtype=torch.float32))
    return next(iter(loader))[0].clone()


@torch.no_grad()
def test_torchvision_computes_the_same_logits_from_the_ports_weights(export: Any, place: Path, images: Any) -> None:
    code, path, printed = export("tiny:port:0", "torchvision")
    assert code == 0
    assert "torchvision.models.googlenet(num_classes=3, aux_logits=False" in printed
    theirs = googlenet(num_classes=3, aux_logits=False, transform_input=False, init_weights=False)
    theirs.load_state_dict(torch.load(path, weights_only=True))
    ours, description = load(path)
    assert torch.equal(theirs.eval()(images), ours(images).main)
    assert description["run"] | {"key": ""} == {
        "key": "", "experiment": "tiny", "arm": "port", "seed": 0, "commit": "abc", "dirty": False
    }  # fmt: skip
    assert description["accuracy"] == {"top1": 0.5, "top5": 1.0}
    assert description["classes"] == ["ant", "bee", "cat"]
    assert description["input"]["mean"] == list(MEAN)
    assert (description["input"]["resolution"], description["input"]["crop"]) == (64, 0.875)


def test_torchvision_takes_the_heads_if_they_are_asked_for(export: Any) -> None:
    _, path, _ = export("tiny:port:0", "torchvision", "--heads")
    theirs = googlenet(num_classes=3, aux_logits=True, transform_input=False, init_weights=False)
    theirs.load_state_dict(torch.load(path, weights_only=True))


@torch.no_grad()
def test_the_papers_network_says_what_differs_and_is_loaded_with_the_averaged_weights(
    export: Any, place: Path, images: Any
) -> None:
    code, path, printed = export("tiny:paper:0", "torchvision")
    assert code == 0
    assert "5x5 kernels" in printed
    assert "covers 3x3 pixels" in printed
    network, description = load(path)
    content = checkpoint.load(run_folder(place / "records", description["run"]["key"]), description["run"]["key"])
    assert content is not None
    assert torch.equal(network.fc.weight, content["averaged"]["network"]["fc.weight"])
    assert description["weights"] == "averaged over the steps (ema)"
    assert len(description["differs_from_torchvision"]) == 2
    assert network(images).main.dtype is torch.float32


@pytest.mark.parametrize(("arm", "heads"), [("port", True), ("paper", False)])
@torch.no_grad()
def test_onnxruntime_predicts_the_same_classes_for_batches_of_any_size(
    export: Any, images: torch.Tensor, arm: str, heads: bool
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    code, path, printed = export(f"tiny:{arm}:0", "onnx", *["--heads"] * heads)
    assert code == 0, printed
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    assert names == ["logits", *(["aux1", "aux2"] if heads else [])]
    _, saved, _ = export(f"tiny:{arm}:0", "torchvision", *["--heads"] * heads)
    network = load(saved).network
    network.training = True
    for batch in (images, images[:1]):
        found = session.run(None, {"images": batch.contiguous().numpy()})
        expected = [output.numpy() for output in network(batch) if output is not None]
        for ours, theirs in zip(expected[: len(found)], found, strict=True):
            assert np.array_equal(ours.argmax(1), theirs.argmax(1))
            np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)
    description = json.loads(session.get_modelmeta().custom_metadata_map["deeper"])
    assert description["classes"] == ["ant", "bee", "cat"]
    assert description["outputs"] == names


@torch.no_grad()
def test_safetensors_hold_the_weights_and_the_description(export: Any, images: torch.Tensor) -> None:
    _, path, _ = export("tiny:port:0", "safetensors")
    _, other, _ = export("tiny:port:0", "torchvision")
    assert torch.equal(load(path).network(images).main, load(other).network(images).main)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["deeper"])["run"]["arm"] == "port"
        assert all(file.get_tensor(name).dtype in (torch.float32, torch.int64) for name in file.keys())  # noqa: SIM118


def test_the_files_of_a_run_agree_on_the_validation_set(
    export: Any, photo_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    files = [
        export("tiny:port:0", format)[1].rename(tmp_path / f"port.{suffix}")
        for format, suffix in (("safetensors", "safetensors"), ("onnx", "onnx"))
    ]
    _, theirs, _ = export("tiny:port:0", "torchvision")
    other = tmp_path / "other.pt"
    state = torch.load(theirs, weights_only=True)
    torch.save({**state, "fc.weight": -state["fc.weight"], "fc.bias": -state["fc.bias"]}, other)
    (tmp_path / "other.pt.json").write_bytes(theirs.with_name(f"{theirs.name}.json").read_bytes())
    found = compare([theirs, *files], photo_data)
    assert [one.program for one in found] == ["torchvision", "reproduce.export.loading", "onnxruntime"]
    images = load_manifest(photo_data).splits["val"].images
    assert {(one.images, one.top1, one.other_predictions) for one in found} == {(images, found[0].top1, 0)}
    assert found[1].largest_difference == 0
    assert found[2].largest_difference < 1e-3
    assert agreement_main([str(theirs), "--on", str(photo_data)]) == 0
    assert agreement_main([str(theirs), str(other), "--on", str(photo_data)]) == 1
    assert "(torchvision): top-1" in capsys.readouterr().out
    assert agreement_main([str(tmp_path / "absent.onnx"), "--on", str(photo_data)]) == 2


def test_an_unfinished_run_is_exported_only_if_this_is_said(export: Any) -> None:
    code, path, printed = export("tiny:begun:0", "safetensors")
    assert (code, path.exists()) == (2, False)
    assert "interrupted" in printed
    assert "--unfinished" in printed
    code, path, printed = export("tiny:begun:0", "safetensors", "--unfinished")
    assert code == 0
    assert "unfinished, 1 of 2 epochs" in printed
    assert load(path).description["training"] == {"epochs_done": 1, "epochs": 2, "finished": False}
    assert load(path).description["accuracy"]["top1"] == 0.25


def test_nothing_is_overwritten(export: Any, tmp_path: Path) -> None:
    for name in ("tiny-port-0.torchvision", "tiny-port-0.torchvision.json"):
        (tmp_path / name).write_text("mine")
        code, _, printed = export("tiny:port:0", "torchvision")
        assert (code, (tmp_path / name).read_text()) == (2, "mine")
        assert "exists" in printed
        (tmp_path / name).unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("run", "format", "options", "sentence"),
    [
        ("tiny:port:0", "tflite", (), "--format: 'tflite' is unknown; use one of torchvision, onnx, safetensors"),
        ("tiny:other:0", "onnx", (), "tiny has no arm 'other'"),
        ("nothing:port:0", "onnx", (), "'nothing' has no records"),
        ("tiny:port:0", "onnx", ("--on", "/nowhere"), "it names the classes"),
    ],
)
def test_mistakes_are_named(export: Any, run: str, format: str, options: tuple[str, ...], sentence: str) -> None:
    code, path, printed = export(run, format, *options)
    assert (code, path.exists()) == (2, False)
    assert sentence in printed


def test_a_missing_package_is_named(export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, printed = export("tiny:port:0", "onnx")
    assert code == 2
    assert "needs the package onnxscript" in printed
    assert "deeper[export]" in printed


def test_damaged_files_are_named(export: Any, tmp_path: Path) -> None:
    _, path, _ = export("tiny:port:0", "safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged, or no safetensors file"):
        load(path)
    _, path, _ = export("tiny:port:0", "torchvision")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"not a state dict saved by torch\.save, or damaged"):
        load(path)
