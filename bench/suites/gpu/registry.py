"""Lists the probes of `deeper bench gpu` in the order in which they run, the most valuable ones first."""

from __future__ import annotations

from bench.suites.gpu.probe import Probe
from bench.suites.gpu.probes.correctness import correctness
from bench.suites.gpu.probes.deterministic import deterministic
from bench.suites.gpu.probes.feeding import feeding
from bench.suites.gpu.probes.kernels import kernels
from bench.suites.gpu.probes.loader import loader
from bench.suites.gpu.probes.machine import machine
from bench.suites.gpu.probes.main_job import main_job
from bench.suites.gpu.probes.nccl import nccl
from bench.suites.gpu.probes.nvidia_smi import nvidia_smi
from bench.suites.gpu.probes.step import compiled, energy, evaluation, graph, published, step, variants

PROBES = (
    Probe(name="machine", help="what the machine is and what it can reach", run=machine, seconds=40),
    Probe(name="correctness", help="logits and gradients against float64", run=correctness, seconds=90),
    Probe(name="nvml", help="NVML against nvidia-smi", run=nvidia_smi, seconds=30, gpu=True),
    Probe(name="nccl", help="NCCL with one rank", run=nccl, seconds=40, gpu=True),
    Probe(
        name="run",
        help="stop, continue and report a run",
        run=main_job,
        seconds=150,
        packages=("ray", "ffcv"),
    ),
    Probe(name="step", help="a training step in all implementations", run=step, seconds=120),
    Probe(name="kernels", help="our kernels against torch's, layer by layer", run=kernels, seconds=60),
    Probe(name="graph", help="what a CUDA graph gains on small images", run=graph, seconds=45, gpu=True),
    Probe(name="evaluation", help="an evaluation in all implementations", run=evaluation, seconds=60),
    Probe(name="loader", help="the loader by number of threads", run=loader, seconds=60, packages=("ffcv",)),
    Probe(name="feeding", help="the step fed by the loader, and alone", run=feeding, seconds=45, packages=("ffcv",)),
    Probe(name="energy", help="images per joule", run=energy, seconds=45, gpu=True),
    Probe(name="deterministic", help="what deterministic kernels cost", run=deterministic, seconds=60),
    Probe(name="variants", help="other reductions, auxiliary classifiers and normalisation", run=variants, seconds=90),
    Probe(name="published", help="beside published speeds", run=published, seconds=45),
    Probe(name="compiled", help="what torch.compile gains", run=compiled, seconds=120),
)
"""All probes in the order in which they run."""
