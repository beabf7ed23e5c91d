"""The parts in order of worth."""

from __future__ import annotations

from bench.suites.gpu.part import Part
from bench.suites.gpu.parts.correctness import correctness
from bench.suites.gpu.parts.deterministic import deterministic
from bench.suites.gpu.parts.loader import loader
from bench.suites.gpu.parts.machine import machine
from bench.suites.gpu.parts.main_job import main_job
from bench.suites.gpu.parts.nccl import nccl
from bench.suites.gpu.parts.nvidia_smi import nvidia_smi
from bench.suites.gpu.parts.step import compiled, energy, evaluation, published, step, variants

PARTS = (
    Part(name="machine", help="what the machine is", work=machine, seconds=40),
    Part(name="correctness", help="logits and gradients against float64", work=correctness, seconds=90),
    Part(name="nvml", help="NVML against nvidia-smi", work=nvidia_smi, seconds=30, gpu=True),
    Part(name="nccl", help="NCCL with one rank", work=nccl, seconds=40, gpu=True),
    Part(name="run", help="run, stop, go on, report", work=main_job, seconds=150, packages=("ray", "ffcv")),
    Part(name="step", help="a training step in all its forms", work=step, seconds=120),
    Part(name="evaluation", help="an evaluation in all its forms", work=evaluation, seconds=60),
    Part(name="loader", help="the loader to the device, by threads", work=loader, seconds=60, packages=("ffcv",)),
    Part(name="energy", help="images per joule", work=energy, seconds=45, gpu=True),
    Part(name="deterministic", help="deterministic kernels over free ones", work=deterministic, seconds=60),
    Part(name="variants", help="reductions, heads, normalisation", work=variants, seconds=90),
    Part(name="published", help="beside published figures", work=published, seconds=45),
    Part(name="compiled", help="what torch.compile makes of it", work=compiled, seconds=120),
)
