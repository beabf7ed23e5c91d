"""NCCL with one rank: that it starts, reduces, and that a step under DDP does what it does without."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from bench.suites.gpu.part import Report, Task
from bench.suites.harness.inputs import random_batch, run_without_data
from bench.suites.harness.meter import Meter
from reproduce.execution.process import prepare_process
from reproduce.execution.ranks import leave_process_group
from reproduce.spec import NetworkConfig, RunConfig
from reproduce.training.step import build_step

MEGABYTES = (1, 32)
IMAGES = 8


def nccl(task: Task, report: Report) -> None:
    prepare_process(task.device, task.threads)
    ranks(task, report, "nccl")


def ranks(task: Task, report: Report, backend: str) -> None:
    """The same by any backend."""
    meeting = f"file://{task.scratch}/rendezvous"
    report.progress("joining")
    dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1, timeout=timedelta(seconds=60))
    meter = Meter(task.device)
    ones = torch.ones(1000, device=task.device)
    dist.all_reduce(ones)
    report.holds("a sum over one rank is its own", bool((ones == 1).all()))
    rows = {}
    for size in MEGABYTES:
        tensor = torch.zeros(size * 2**18, device=task.device)
        work = lambda tensor=tensor: dist.all_reduce(tensor)  # noqa: E731
        meter.seconds(work)
        rows[f"{size} MiB"] = {"all-reduce, µs": 1e6 * meter.seconds(work, 20) / 20}
    report.table(f"{backend}, one rank", rows)
    network = NetworkConfig(dropout=0, aux_dropout=0, resolution=task.size.side)
    run = run_without_data(network, batch=IMAGES)
    report.progress("a step under DDP")
    alone, together = (_loss_and_gradient(run, task.device, distributed) for distributed in (False, True))
    report.check("a step under DDP: difference of loss", abs(together[0] - alone[0]), at_most=1e-2)
    cosine = torch.nn.functional.cosine_similarity(together[1], alone[1], dim=0)
    report.check("a step under DDP: cosine of gradient", float(cosine), at_least=0.999)
    leave_process_group()


def _loss_and_gradient(run: RunConfig, device: torch.device, distributed: bool) -> tuple[float, torch.Tensor]:
    """Of one step in float32."""
    recipe = run.recipe.model_copy(update={"precision": "float32"})
    step = build_step(run.model_copy(update={"recipe": recipe}), device=device, distributed=distributed)
    step.network.train()
    torch.manual_seed(0)
    images, labels = random_batch(run, torch.device("cpu"))
    result = step(images.to(device), labels.to(device), learning_rate=0.0)
    gradients = [parameter.grad.flatten() for parameter in step.network.parameters() if parameter.grad is not None]
    return float(result.loss), torch.cat(gradients)
