"""Whether the device computes what it should: logits and gradients of a step against float64 on the CPU.

One step in float32 and one in bf16 as a run takes it, from the same weights, on the same few images, without dropout.
On GPUs float32 is measured twice: exact, and as a run has it, where convolutions compute in TF32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.suites.gpu.part import Report, Task
from bench.suites.harness.inputs import random_batch, run_without_data
from reproduce.data.loading.normalise import Normalise
from reproduce.execution.process import prepare_process
from reproduce.models import GoogLeNet
from reproduce.spec import NetworkConfig, RunConfig
from reproduce.training.step import build_step, losses

IMAGES = 8
ERROR, LOGITS = "error of logits", "cosine of logits"  # the largest error of a logit by the largest logit
GRADIENT, LEAST = "cosine of gradient", "least of a parameter's"
CPU = torch.device("cpu")
FLOAT32, BF16, AS_RUN = "float32", "bf16", "float32 as a run has it"
BOUNDS = {  # most of ERROR, least of GRADIENT
    (FLOAT32, "none"): (1e-4, 0.9999),
    (AS_RUN, "none"): (0.01, 0.999),
    (BF16, "none"): (0.03, 0.99),
    (FLOAT32, "batch"): (1e-3, 0.995),
    (AS_RUN, "batch"): (0.15, 0.7),
    (BF16, "batch"): (0.5, 0.4),
}
"""Batch normalisation over few images makes a fresh network chaotic: each rounding turns decisions of ReLU and of max
pools over, and no bf16 comes close to float64 there."""


def correctness(task: Task, report: Report) -> None:
    prepare_process(task.device, task.threads)
    precisions = (FLOAT32, AS_RUN, BF16) if task.device.type == "cuda" else (FLOAT32, BF16)
    rows: dict[str, dict[str, float]] = {}
    for norm in ("none", "batch"):
        network = NetworkConfig(norm=norm, dropout=0, aux_dropout=0, resolution=task.size.side)
        run = run_without_data(network, batch=IMAGES)
        images, labels = random_batch(run, CPU)
        report.progress(f"float64 on the CPU, norm {norm}")
        expected = in_float64(run, images, labels)
        for precision in precisions:
            name = f"{precision}, norm {norm}"
            report.progress(name)
            torch.backends.cudnn.allow_tf32 = precision != FLOAT32
            rows[name] = _compared(expected, _on_device(run, precision, images, labels, task.device))
            report.table(f"against float64 on the CPU, {IMAGES} images of {task.size.side} px", rows)
            most, least = BOUNDS[precision, norm]
            report.check(f"{name}: {ERROR}", rows[name][ERROR], at_most=most)
            report.check(f"{name}: {GRADIENT}", rows[name][GRADIENT], at_least=least)


Found = tuple[Tensor, Mapping[str, Tensor]]
"""Logits [N, classes] and the gradient of each parameter by its name, in float64 on the CPU."""


def in_float64(run: RunConfig, images: Tensor, labels: Tensor) -> Found:
    """What a step has to find."""
    torch.manual_seed(run.seeds.initialisation)
    network = GoogLeNet(run.network).double().train()
    outputs = network(Normalise(torch.float32)(images).double())
    found = losses(outputs, labels, aux_weight=run.network.aux_weight, label_smoothing=run.recipe.label_smoothing)
    found.total.backward()  # type: ignore[no-untyped-call]
    return outputs.main.detach(), _gradients(network)


def _on_device(run: RunConfig, precision: str, images: Tensor, labels: Tensor, device: torch.device) -> Found:
    recipe = run.recipe.model_copy(update={"precision": BF16 if precision == BF16 else FLOAT32})
    step = build_step(run.model_copy(update={"recipe": recipe}), device=device)
    step.network.train()
    result = step(images.to(device), labels.to(device), learning_rate=0.0)
    return result.logits.to(CPU, torch.float64), _gradients(step.network)


def _gradients(network: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {name: gradient.to(CPU, torch.float64) for name, gradient in found.items() if gradient is not None}


def _compared(expected: Found, found: Found) -> dict[str, float]:
    logits, gradients = expected
    if gradients.keys() != found[1].keys():
        raise RuntimeError(f"gradients of other parameters: {sorted(gradients.keys() ^ found[1].keys())}")
    together = [torch.cat([one[name].flatten() for name in gradients]) for one in (gradients, found[1])]
    return {
        ERROR: float((found[0] - logits).abs().max() / logits.abs().max()),
        LOGITS: _cosine(found[0], logits),
        GRADIENT: _cosine(*together),
        LEAST: min(_cosine(found[1][name], gradient) for name, gradient in gradients.items()),
    }


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))
