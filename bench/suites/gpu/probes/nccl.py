"""Checks NCCL with one rank: it starts, it reduces, and a step under DDP computes the same as one without DDP."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

from bench.suites.gpu.probe import ProbeContext, Reporter
from bench.suites.harness.inputs import random_batch, run_without_data
from bench.suites.harness.meter import Meter
from reproduce.execution.process import prepare_process
from reproduce.spec import NetworkConfig, RunConfig
from reproduce.training.step import build_step

SIZES_MIB = (1, 32)
IMAGES = 8


def nccl(context: ProbeContext, reporter: Reporter) -> None:
    """Check NCCL with one rank on the GPU, see `check_backend`. Sets up the process like that of a run."""
    prepare_process(context.device, context.threads)
    check_backend(context, reporter, "nccl")


def check_backend(context: ProbeContext, reporter: Reporter, backend: str) -> None:
    """Check a backend of torch.distributed with one rank.

    Checks an all-reduce, and that loss and gradients of a step under DDP agree with those of a step without it.
    Reports the times of all-reduces. Initialises the default process group of this process, and destroys it at the
    end. DDP's threads stay, so the process should end without the interpreter's shutdown (see
    `leave_process_group`).

    Args:
        context: The device, and the scratch folder, which receives the file of the rendezvous.
        reporter: Receives checks and times.
        backend: Name of the backend in torch.distributed, for example "nccl".
    """
    rendezvous = f"file://{context.scratch}/rendezvous"
    reporter.progress("joining")
    dist.init_process_group(backend, init_method=rendezvous, rank=0, world_size=1, timeout=timedelta(seconds=60))
    meter = Meter(context.device)
    ones = torch.ones(1000, device=context.device)
    dist.all_reduce(ones)
    reporter.check_true("a sum over one rank is its own", bool((ones == 1).all()))
    rows = {}
    for size in SIZES_MIB:
        tensor = torch.zeros(size * 2**18, device=context.device)
        all_reduce = partial(dist.all_reduce, tensor)
        meter.seconds(all_reduce)  # warms up
        rows[f"{size} MiB"] = {"all-reduce, µs": 1e6 * meter.seconds(all_reduce, 20) / 20}
    reporter.table(f"{backend}, one rank", rows)
    network = NetworkConfig(dropout=0, aux_dropout=0, resolution=context.size.side)
    run = run_without_data(network, batch=IMAGES)
    reporter.progress("a step under DDP")
    without_ddp, with_ddp = (_loss_and_gradient(run, context.device, distributed) for distributed in (False, True))
    reporter.check("a step under DDP: difference of loss", abs(with_ddp[0] - without_ddp[0]), at_most=1e-2)
    cosine = torch.nn.functional.cosine_similarity(with_ddp[1], without_ddp[1], dim=0)
    reporter.check("a step under DDP: cosine of gradient", float(cosine), at_least=0.999)
    dist.destroy_process_group()


def _loss_and_gradient(run: RunConfig, device: torch.device, distributed: bool) -> tuple[float, torch.Tensor]:
    """Take one step in float32, and return its loss and its gradients, flattened and joined into one vector."""
    recipe = run.recipe.model_copy(update={"precision": "float32"})
    step = build_step(run.model_copy(update={"recipe": recipe}), device=device, distributed=distributed)
    step.network.train()
    torch.manual_seed(0)
    images, labels = random_batch(run, torch.device("cpu"))
    result = step(images.to(device), labels.to(device), learning_rate=0.0)
    gradients = [parameter.grad.flatten() for parameter in step.network.parameters() if parameter.grad is not None]
    return float(result.loss), torch.cat(gradients)
