"""Checks that the device computes correctly: logits and gradients of a step against float64 on the CPU.

Takes one training step in float32 and one in bf16, from the same weights, on the same few images, without dropout. On
GPUs float32 is checked twice: in full precision, and as in a run, where convolutions use TF32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.suites.gpu.probe import ProbeContext, Reporter
from bench.suites.harness.errors import MeasurementError
from bench.suites.harness.inputs import random_batch, run_without_data
from reproduce.data.loading.normalise import Normalise
from reproduce.execution.process import prepare_process
from reproduce.models import GoogLeNet
from reproduce.spec import NetworkConfig, RunConfig
from reproduce.training.step import build_step, losses

IMAGES = 8
ERROR = "error of logits"  # the largest error of a logit as a share of the largest logit
LOGITS = "cosine of logits"
GRADIENT = "cosine of gradient"  # of all parameters together
LEAST = "least of a parameter's"  # the smallest cosine of the gradient of one parameter
CPU = torch.device("cpu")
FLOAT32, BF16, AS_IN_RUN = "float32", "bf16", "float32 as a run has it"
BOUNDS = {  # at most this ERROR, at least this GRADIENT
    (FLOAT32, "none"): (1e-4, 0.9999),
    (AS_IN_RUN, "none"): (0.01, 0.999),
    (BF16, "none"): (0.03, 0.99),
    (FLOAT32, "batch"): (1e-3, 0.995),
    (AS_IN_RUN, "batch"): (0.15, 0.7),
    (BF16, "batch"): (0.5, 0.4),
}
"""Bounds by precision and normalisation: the largest `ERROR` and the smallest `GRADIENT` that pass.

Batch normalisation over few images makes an untrained network chaotic: each rounding error changes decisions of ReLU
and of max pools, so that bf16 cannot come close to float64.
"""


def correctness(context: ProbeContext, reporter: Reporter) -> None:
    """Compare one step in each precision with float64, without normalisation and with batch normalisation.

    Changes the process: it is set up like that of a run, and cuDNN's use of TF32 keeps its last setting.
    """
    prepare_process(context.device, context.threads)
    precisions = (FLOAT32, AS_IN_RUN, BF16) if context.device.type == "cuda" else (FLOAT32, BF16)
    rows: dict[str, dict[str, float]] = {}
    for norm in ("none", "batch"):
        network = NetworkConfig(norm=norm, dropout=0, aux_dropout=0, resolution=context.size.side)
        run = run_without_data(network, batch=IMAGES)
        images, labels = random_batch(run, CPU)
        reporter.progress(f"float64 on the CPU, norm {norm}")
        expected = in_float64(run, images, labels)
        for precision in precisions:
            name = f"{precision}, norm {norm}"
            reporter.progress(name)
            torch.backends.cudnn.allow_tf32 = precision != FLOAT32
            rows[name] = _differences(expected, _on_device(run, precision, images, labels, context.device))
            reporter.table(f"against float64 on the CPU, {IMAGES} images of {context.size.side} px", rows)
            max_error, min_cosine = BOUNDS[precision, norm]
            reporter.check(f"{name}: {ERROR}", rows[name][ERROR], at_most=max_error)
            reporter.check(f"{name}: {GRADIENT}", rows[name][GRADIENT], at_least=min_cosine)


StepOutputs = tuple[Tensor, Mapping[str, Tensor]]
"""Logits [N, classes] and the gradient of each parameter by name, in float64 on the CPU."""


def in_float64(run: RunConfig, images: Tensor, labels: Tensor) -> StepOutputs:
    """Compute the reference for a step on the CPU: its logits and gradients in float64, with the run's initial weights.

    Args:
        run: The network, its seed of initialisation, and the weights of the losses.
        images: uint8 [N, 3, S, S] on the CPU.
        labels: int64 [N] on the CPU.

    Returns:
        Logits [N, classes] of the main classifier, and the gradient of the total loss by the name of the parameter.
    """
    torch.manual_seed(run.seeds.initialisation)
    network = GoogLeNet(run.network).double().train()
    outputs = network(Normalise(torch.float32)(images).double())
    loss = losses(outputs, labels, aux_weight=run.network.aux_weight, label_smoothing=run.recipe.label_smoothing)
    loss.total.backward()  # type: ignore[no-untyped-call]
    return outputs.main.detach(), _gradients(network)


def _on_device(run: RunConfig, precision: str, images: Tensor, labels: Tensor, device: torch.device) -> StepOutputs:
    recipe = run.recipe.model_copy(update={"precision": BF16 if precision == BF16 else FLOAT32})
    step = build_step(run.model_copy(update={"recipe": recipe}), device=device)
    step.network.train()
    result = step(images.to(device), labels.to(device), learning_rate=0.0)
    return result.logits.to(CPU, torch.float64), _gradients(step.network)


def _gradients(network: torch.nn.Module) -> dict[str, Tensor]:
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {name: gradient.to(CPU, torch.float64) for name, gradient in gradients.items() if gradient is not None}


def _differences(expected: StepOutputs, found: StepOutputs) -> dict[str, float]:
    logits, gradients = expected
    if gradients.keys() != found[1].keys():
        raise MeasurementError(f"gradients of other parameters: {sorted(gradients.keys() ^ found[1].keys())}")
    together = [torch.cat([one[name].flatten() for name in gradients]) for one in (gradients, found[1])]
    return {
        ERROR: float((found[0] - logits).abs().max() / logits.abs().max()),
        LOGITS: _cosine(found[0], logits),
        GRADIENT: _cosine(*together),
        LEAST: min(_cosine(found[1][name], gradient) for name, gradient in gradients.items()),
    }


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))
