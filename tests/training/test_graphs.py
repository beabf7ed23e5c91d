"""A step that is replayed as a graph computes what the eager step computes, bit for bit; CUDA itself is a double."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda_double import CudaDouble
from tiny import Recorder, StopAt, assert_same_end, rank_setup, tiny_run
from torch import Tensor
from torch.nn import functional as F

from bench.suites.harness.errors import MeasurementError
from bench.suites.step import implementations
from bench.suites.step.inputs import step_inputs
from reproduce.errors import UserError
from reproduce.native import agreement, kernels
from reproduce.native.backend import Backend
from reproduce.native.compiling import Implementation
from reproduce.spec import NetworkConfig
from reproduce.training import loop
from reproduce.training import step as step_module
from reproduce.training.graphs import captured
from reproduce.training.graphs.switch import VARIABLE, GraphUse, graph_wanted
from reproduce.training.interface import NonFiniteLossError, SilentObserver
from reproduce.training.loop import train
from reproduce.training.step import Step, StepResult, build_step

CPU = torch.device("cpu")
RATES = (0.125, 0.5, 0.0625, 0.25)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaDouble:
    double = CudaDouble()
    double.install(monkeypatch)
    return double


def batch(side: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=generator)
    return images.contiguous(memory_format=torch.channels_last), torch.randint(0, 3, (3,), generator=generator)


def built(graphed: bool, **recipe: Any) -> Step:
    step = build_step(tiny_run(precision="float32", **recipe), device=CPU, graphed=graphed)
    step.network.train()
    torch.manual_seed(7)  # of dropout
    return step


def state_of(step: Step) -> list[Tensor]:
    averaged = [] if step.average is None else list(step.average.network.state_dict().values())
    momenta = [state["momentum_buffer"] for state in step.optimiser.state.values()]
    return [*step.network.state_dict().values(), *momenta, *averaged, torch.get_rng_state()]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def numbers_of(result: StepResult) -> list[Tensor]:
    return [value for value in result if isinstance(value, Tensor)]


@pytest.mark.parametrize("averaging", ["none", "ema", "polyak"])
def test_replayed_steps_equal_eager_ones_at_changing_rates_and_two_sides(cuda: CudaDouble, averaging: str) -> None:
    """With dropout and both auxiliary classifiers. All results are compared after the last step."""
    sides = (32, 48, 32, 48)
    runs = []
    for graphed in (False, True):
        step = built(graphed, averaging=averaging)
        results, gradients = [], []
        for number, (side, rate) in enumerate(zip(sides, RATES, strict=True)):
            images, labels = batch(side, number)
            if graphed and number < 2:
                step.warm_up(images, labels)
            results.append(step(images, labels, rate))
            gradients.append([p.grad.clone() for p in step.network.parameters() if p.grad is not None])
        runs.append((step, results, gradients))
    (eager, expected, their_gradients), (replayed, found, gradients) = runs
    assert replayed.graph == GraphUse(True, "")
    assert cuda.count("capture") == 2, "one for each side"
    assert cuda.count("replay") == 2 + 4, "one to compare each graph, then all steps"
    assert len(set(map(id, cuda.pools))) == 1
    assert_equal(state_of(replayed), state_of(eager))
    for one, other in zip(found, expected, strict=True):
        assert_equal(numbers_of(one), numbers_of(other))
        assert len(numbers_of(one)) == 5
    for own, theirs in zip(gradients, their_gradients, strict=True):
        assert_equal(own, theirs)
    if eager.average is not None:
        assert replayed.average is not None
        assert replayed.average.steps == eager.average.steps == len(RATES)


def test_a_graph_of_bfloat16_casts_the_weights_of_each_step(cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPER_KERNELS", "torch")  # the double sees torch's operations alone
    runs = []
    for graphed in (False, True):
        step = build_step(tiny_run(precision="bf16"), device=CPU, graphed=graphed)
        step.network.train()
        torch.manual_seed(7)
        if graphed:
            step.warm_up(*batch(32, 0))
        runs.append((step, [step(*batch(32, number), rate) for number, rate in enumerate(RATES[:3])]))
    (eager, expected), (replayed, found) = runs
    assert replayed.graph == GraphUse(True, "")
    assert_equal(state_of(replayed), state_of(eager))
    assert_equal([result.loss for result in found], [result.loss for result in expected])


def test_a_capture_and_its_warm_up_leave_everything_as_it_was(cuda: CudaDouble) -> None:
    step = built(True, averaging="ema")
    step.warm_up(*batch(32, 0))
    step(*batch(32, 0), 0.25)  # so that momenta and averages are not those of the beginning
    before = [tensor.clone() for tensor in state_of(step)]
    given = batch(48, 1)
    step.warm_up(*given)
    assert cuda.count("capture") == 2
    assert_equal(state_of(step), before)
    assert all(parameter.grad is None for parameter in step.network.parameters())
    assert [repr(group["lr"]) for group in step.optimiser.param_groups] == ["0.25"], "as checkpoints hold it"
    step(*batch(48, 2), 0.25)
    assert_equal(list(given), list(batch(48, 1)))


def test_a_shape_is_captured_once_and_after_its_warm_up_in_the_same_stream(
    cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = built(True)
    forward = Step._forward_backward

    def logged(self: Step, images: Tensor, labels: Tensor) -> StepResult:
        cuda.calls.append(f"pass in {torch.cuda.current_stream(CPU).name}")  # type: ignore[attr-defined]
        return forward(self, images, labels)

    monkeypatch.setattr(Step, "_forward_backward", logged)
    for _ in range(2):
        step.warm_up(*batch(32, 0))
    step(*batch(32, 1), 0.5)
    waits = ["side waits for main", "main waits for side"]
    assert cuda.calls == [
        *(waits[0], *["pass in side"] * captured.PASSES, waits[1]),
        *(waits[0], "capture", "pass in side", "captured", waits[1]),
        *("replay", "replay"),
    ]


def test_images_of_a_shape_that_was_not_captured_take_the_eager_step(cuda: CudaDouble) -> None:
    step, eager = built(True), built(False)
    step.warm_up(*batch(32, 0))
    for side in (32, 48, 32):
        found, expected = step(*batch(side, side), 0.25), eager(*batch(side, side), 0.25)
        torch.testing.assert_close(found.loss.isfinite(), expected.loss.isfinite())
    assert cuda.count("replay") == 1 + 2
    gradients = [parameter.grad for parameter in step.network.parameters()]
    assert all(gradient is not None and not gradient.isnan().any() for gradient in gradients)


# --- what cannot be captured ----------------------------------------------------------------------


def assert_eager(step: Step, reason: str) -> None:
    """The step says why it is eager, and computes what one computes that was never to be captured."""
    assert step.graph is not None
    assert not step.graph.captured
    assert reason in step.graph.reason
    torch.manual_seed(7)
    found = [step(*batch(32, number), rate).loss for number, rate in enumerate(RATES)]
    own = state_of(step)
    eager = built(False, averaging="ema")
    expected = [eager(*batch(32, number), rate).loss for number, rate in enumerate(RATES)]
    assert_equal(found, expected)
    assert_equal(own, state_of(eager))


def test_a_capture_that_fails_leaves_the_eager_step_and_is_not_tried_again(
    cuda: CudaDouble, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.broken = "operation failed due to a previous error during capture\nmore"
    step = built(True, averaging="ema")
    step.warm_up(*batch(32, 0))
    reason = "capturing it failed: RuntimeError: operation failed due to a previous error during capture"
    assert cuda.calls.index("reset") < cuda.calls.index("empty cache"), "its memory is freed"
    step.warm_up(*batch(48, 0))
    assert cuda.count("capture") == 1
    assert cuda.count("replay") == 0
    assert [record.message for record in caplog.records] == [
        f"steps are launched kernel by kernel, not as a CUDA graph: {reason}"
    ]
    assert_eager(step, reason)


def test_a_graph_that_fails_at_a_later_side_ends_those_before(cuda: CudaDouble) -> None:
    step = built(True)
    step.warm_up(*batch(32, 0))
    cuda.broken = "out of memory"
    step.warm_up(*batch(48, 0))
    assert step.graph == GraphUse(False, "capturing it failed: RuntimeError: out of memory")
    replays = cuda.count("replay")
    step(*batch(32, 0), 0.5)
    assert cuda.count("replay") == replays


def test_a_step_that_waits_for_the_device_cannot_be_captured(cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = step_module.losses

    def waiting(*args: Any, **options: Any) -> step_module.Losses:
        found = losses(*args, **options)
        float(found.total.detach())
        return found

    monkeypatch.setattr(step_module, "losses", waiting)
    step = built(True, averaging="ema")
    step.warm_up(*batch(32, 0))
    assert_eager(step, "operation not permitted when stream is capturing")


def test_a_graph_that_keeps_a_rate_of_its_own_is_found_out(cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    def baked(self: Step, images: Tensor, labels: Tensor, learning_rate: Tensor, weight: Tensor) -> StepResult:
        rate = 0.0 if cuda.capturing else float(learning_rate)
        step_module.set_learning_rate(self.optimiser, rate)
        result = self._forward_backward(images, labels)
        self.optimiser.step()
        assert self.average is not None
        self.average.lerp(weight)
        return result

    monkeypatch.setattr(Step, "_whole_step", baked)
    step = built(True, averaging="ema")
    step.warm_up(*batch(32, 0))
    assert_eager(step, "it computes other weights than the step: they differ by")


def test_ranks_that_gloo_connects_take_the_eager_step(cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module.dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(step_module, "DistributedDataParallel", lambda network, **_: network)
    step = build_step(tiny_run(), device=CPU, distributed=True, graphed=True)
    step.network.train()
    step.warm_up(*batch(32, 0))
    assert step.graph == GraphUse(False, "sums over the ranks by gloo cannot be captured, only those by nccl")
    assert cuda.calls == []


def test_a_rank_whose_capture_succeeds_follows_one_whose_capture_fails(
    cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    under: list[str] = []

    def wrapped(network: torch.nn.Module, **_: Any) -> torch.nn.Module:
        under.append(torch.cuda.current_stream(CPU).name)  # type: ignore[attr-defined]
        return network

    monkeypatch.setattr(step_module, "DistributedDataParallel", wrapped)
    for name, value in {"get_backend": "nccl", "get_rank": 0, "get_world_size": 2}.items():
        monkeypatch.setattr(step_module.dist, name, lambda value=value: value)
    monkeypatch.setattr(captured.Ranks, "agree", lambda self, flags: [True])
    step = build_step(tiny_run(), device=CPU, distributed=True, graphed=True)
    step.network.train()
    step.warm_up(*batch(32, 0))
    assert under == ["side"], "DDP adds gradients up in the stream in which it is created"
    assert step.graph == GraphUse(False, "it failed on another rank")
    assert cuda.count("replay") == 0, "a replay sums over the ranks"


def test_devices_other_than_gpus_have_no_graph() -> None:
    step = build_step(tiny_run(), device=CPU, graphed=True)
    assert step.graph is None
    assert not step.by_shape


@pytest.mark.parametrize(("value", "wanted"), [(None, False), ("off", False), ("on", True)])
def test_graphs_are_off_unless_the_variable_asks_for_them(
    monkeypatch: pytest.MonkeyPatch, value: str | None, wanted: bool
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert graph_wanted() == wanted


def test_an_unknown_value_of_the_variable_is_refused_by_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "yes")
    with pytest.raises(UserError, match=r"^DEEPER_GRAPH=yes: unknown; valid: on, off, or unset$"):
        graph_wanted()
    done = subprocess.run(
        [sys.executable, "-m", "bench.cli", "plan", "quickstart"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "deeper: DEEPER_GRAPH=yes: unknown; valid: on, off, or unset"


def test_a_benchmark_measures_replays_and_nothing_in_their_place(
    cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(implementations, "captures", lambda _: True)
    network = NetworkConfig(classes=3, resolution=32)
    inputs = step_inputs(network, 2, CPU, training=True, precision="float32")
    implementation = implementations.STEPS[implementations.GRAPHED]
    assert implementation.supports(inputs)
    assert not implementation.supports(dataclasses.replace(inputs, training=False))
    implementation.build(inputs)()
    assert cuda.count("replay") == 2
    cuda.broken = "out of memory"
    with pytest.raises(MeasurementError, match="out of memory"):
        implementation.build(inputs)


# --- whole runs -----------------------------------------------------------------------------------

RUN = {"averaging": "ema", "resolution": 48, "resolution_start": 32, "precision": "float32"}


class Listening(Recorder):
    """Keeps what a run says about its graph as well."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.uses: list[GraphUse] = []

    def graph(self, use: GraphUse) -> None:
        self.uses.append(use)


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at losses after ten steps, as on a GPU, so that those of several steps are kept."""
    monkeypatch.setitem(loop.SYNCHRONISE_EVERY, "cpu", 10)


def test_a_graphed_run_ends_like_an_eager_one_whether_resumed_or_not(
    tmp_path: Path, data_root: Path, cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(**RUN)
    eager, whole, broken = (Listening(tmp_path / name) for name in ("eager", "whole", "broken"))
    train(run, rank_setup(eager.folder, data_root), eager)
    assert eager.uses == []
    assert cuda.calls == []
    monkeypatch.setenv(VARIABLE, "on")
    end = train(run, rank_setup(whole.folder, data_root), whole)
    assert whole.uses == [GraphUse(True, "")] * 2, "one for each side"
    assert cuda.count("capture") == 2, "none in a validation"
    assert cuda.count("replay") == 2 + 2 * 5
    stop = StopAt(2)
    attempts = [train(run, rank_setup(broken.folder, data_root, stop), broken) for _ in range(2)]
    assert [attempt.finished for attempt in attempts] == [False, True]
    assert_same_end(whole.folder, broken.folder)
    assert_same_end(eager.folder, whole.folder)
    for name, column in whole.table.items():
        np.testing.assert_array_equal(column, broken.table[name])
        np.testing.assert_array_equal(column, eager.table[name])
    assert end.finished


@pytest.mark.usefixtures("seldom")
def test_losses_that_are_looked_at_later_are_those_of_their_steps(
    tmp_path: Path, data_root: Path, cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "on")
    with pytest.raises(NonFiniteLossError, match="loss is not finite in epoch 1, step 2 of 5"):
        train(tiny_run(learning_rate=1e30, precision="float32"), rank_setup(tmp_path, data_root), SilentObserver())
    assert cuda.count("replay") == 1 + 5


def test_kernels_are_compared_before_a_capture_and_used_in_it(
    cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[bool] = []

    def max_pool(x: Tensor, window: Any) -> Tensor:
        used.append(cuda.capturing is not None)
        return F.max_pool2d(x, *window[:3], ceil_mode=window.ceil_mode)

    ours = Backend(
        name="a double",
        dtypes=(torch.float32,),
        largest_window=5,
        largest_map=2**31,
        evaluates=True,
        by_map=True,
        implementation=lambda: Implementation("native", "a double"),
        max_pool=max_pool,
        norm_relu=lambda norm, x: F.relu(norm(x)),
        sum_maps=lambda maps: torch.stack(list(maps)).sum(0),
    )
    compared: list[bool] = []
    reason = agreement._reason

    def logged(*args: Any) -> str:
        compared.append(cuda.capturing is not None)
        return reason(*args)

    monkeypatch.setitem(kernels.BACKENDS, "cpu", ours)
    monkeypatch.setattr(agreement, "_found", {})
    monkeypatch.setattr(agreement, "_reason", logged)
    step = built(True)
    step.warm_up(*batch(32, 0))
    assert step.graph == GraphUse(True, "")
    assert any(used), "kernels take part in the capture"
    assert compared, "they are compared"
    assert not any(compared), "before it"
