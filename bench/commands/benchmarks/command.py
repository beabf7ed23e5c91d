"""Adds `deeper bench` and the options of its suites to the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.commands.benchmarks import suites as run
from bench.commands.benchmarks.suites import COMMITTED_FOLDER
from bench.console.options import existing_folder, output_file, output_folder


def add_to(subparsers: Any, places: argparse.ArgumentParser) -> None:
    """Add `deeper bench` and its suites to the command line."""
    bench = subparsers.add_parser("bench", help="Benchmarks beside their baselines, with interleaved repetitions.")
    bench.add_argument("--quick", action="store_true", help="The same as the suite quick.")
    bench.set_defaults(call=run.bench, json=False, output=None)
    suites = bench.add_subparsers(metavar="SUITE")
    _add_loader(suites)
    _add_step(suites)
    _add_overhead(suites)
    _add_scaling(suites)
    _add_quick(suites)
    _add_training(suites)
    _add_evaluation(suites)
    _add_layers(suites)
    _add_report(suites)
    _add_gpu(suites)
    _add_faults(suites)
    _add_target(suites)


def _add_loader(suites: Any) -> None:
    suite = _add_suite(suites, "loader", run.loader, "Our loader against FFCV, DALI and torchvision.")
    suite.add_argument(
        "folder",
        type=existing_folder,
        nargs="?",
        help="ImageNet-style folder of photographs (train/<class>/*.jpg); without one, pictures are generated.",
    )
    suite.add_argument("--size", metavar="WxH", help="Also compare on mosaics of them in this size, such as 500x375.")
    suite.add_argument(
        "--side", type=int, nargs="+", default=[224, 64], help="Sides of the crops in pixels. Default: 224 64."
    )
    suite.add_argument("--images", type=int, default=512, help="Photographs in an epoch. Default: 512.")
    suite.add_argument("--batch", type=int, default=32, help="Images in a batch. Default: 32.")
    suite.add_argument(
        "--threads", type=int, help="Decoding threads of the last comparison (all cores); the others have one thread."
    )
    suite.add_argument(
        "--cold", action="store_true", help="Also compare in epochs before which the files are dropped from memory."
    )
    suite.add_argument(
        "--memory-limit",
        type=int,
        metavar="MIB",
        help="Also compare with data at least twice as large as MIB, the memory that a control group leaves for them.",
    )
    _add_repetitions(suite, 3)
    _add_result(suite)


def _add_step(suites: Any) -> None:
    suite = _add_suite(suites, "step", run.step, "Training step and evaluation without data, against torchvision's.")
    suite.add_argument(
        "--side", type=int, nargs="+", default=[224, 64], help="Sides of the images in pixels. Default: 224 64."
    )
    suite.add_argument("--batch", type=int, help="Images in a step. Default: 32 on CPUs and 256 on GPUs at 224 pixels.")
    suite.add_argument(
        "--reduction", nargs="+", default=["reduced"], help="Any of reduced, unreduced, naive. Default: reduced."
    )
    suite.add_argument(
        "--aux", nargs="+", default=["both"], help="Auxiliary classifiers: both, none, aux1, aux2. Default: both."
    )
    suite.add_argument(
        "--compile", action="store_true", help="Also measure compiled networks, which takes minutes on CPUs."
    )
    suite.add_argument(
        "--engines",
        action="store_true",
        help="Also evaluate with onnxruntime, OpenVINO and zentorch, those that are installed.",
    )
    suite.add_argument(
        "--precision", default="auto", help="Precision of ours: auto, bf16, float32. Default: auto, as in a run."
    )
    suite.add_argument("--threads", type=int, help="CPU threads of torch. Default: all cores.")
    _add_repetitions(suite, 5)
    _add_result(suite)


def _add_overhead(suites: Any) -> None:
    suite = _add_suite(
        suites, "overhead", run.overhead, "A recorded run against the same training plain and by torchrun."
    )
    suite.add_argument("--workers", type=int, default=1, help="Ranks of the run. Default: 1.")
    suite.add_argument("--images", type=int, default=2048, help="Training images. Default: 2048.")
    suite.add_argument("--no-costs", action="store_true", help="Leave out the cost of each record alone.")
    _add_repetitions(suite, 3)
    _add_result(suite)


def _add_scaling(suites: Any) -> None:
    suite = _add_suite(suites, "scaling", run.scaling, "Images/s by number of ranks, and what the planner predicts.")
    suite.add_argument(
        "--ranks",
        type=int,
        help="The largest number of ranks; two may share a core. Default: all GPUs, or all cores without GPUs.",
    )
    suite.add_argument("--side", type=int, default=224, help="Side of the images in pixels. Default: 224.")
    suite.add_argument("--batch", type=int, default=16, help="Images of a rank in a step. Default: 16.")
    _add_repetitions(suite, 5)
    _add_result(suite)


def _add_quick(suites: Any) -> None:
    suite = _add_suite(suites, "quick", run.quick, "Has a ratio got worse since the committed results?")
    _add_result(suite)


def _add_training(suites: Any) -> None:
    suite = _add_suite(
        suites,
        "training",
        run.training,
        "Images/s from end to end, against torchvision with ImageFolder and DataLoader.",
    )
    suite.add_argument("folder", type=existing_folder, help="ImageNet-style folder of photographs (train/, val/).")
    suite.add_argument(
        "--batch", type=int, default=32, help="Images in a step. Default: 32, as in Caffe's bvlc_googlenet."
    )
    _add_repetitions(suite, 5)
    _add_result(suite)


def _add_evaluation(suites: Any) -> None:
    suite = _add_suite(
        suites, "evaluation", run.evaluation, "144 crops of an image against the forward pass of the network alone."
    )
    suite.add_argument("data", type=existing_folder, help="Folder of a prepared data set of photographs.")
    _add_repetitions(suite, 5)
    _add_result(suite)


def _add_layers(suites: Any) -> None:
    suite = _add_suite(
        suites,
        "layers",
        run.layers,
        "Speeds that claims are about: 1x1 reductions, and a sparse against a dense layer.",
    )
    suite.add_argument("--side", type=int, default=64, help="Side of the images of a step in pixels. Default: 64.")
    suite.add_argument("--batch", type=int, default=64, help="Images in a step. Default: 64.")
    _add_repetitions(suite, 7)
    _add_result(suite)


def _add_report(suites: Any) -> None:
    suite = _add_suite(
        suites,
        "report",
        run.report,
        "Publishing and reporting of generated records, and how the costs grow with the runs.",
    )
    suite.add_argument("--runs", type=int, default=1000, help="Runs; a tenth is measured as well. Default: 1000.")
    suite.add_argument("--epochs", type=int, default=90, help="Epochs of a run, with 21 metrics each. Default: 90.")
    suite.add_argument(
        "--server", metavar="URI", help="Also fill and read this tracking server, which has to be empty."
    )
    _add_result(suite)


def _add_gpu(suites: Any) -> None:
    suite = _add_suite(
        suites,
        "gpu",
        run.gpu,
        "Does this machine work, and how fast is it? In minutes; for GPUs, and as far as possible for CPUs.",
        description="Runs probes, the most valuable ones first, each with a time limit of its own. A result is written "
        "to FOLDER/gpu/PROBE.json as soon as it is known; at the end, or on Ctrl-C, all are printed as Markdown. The "
        "same command continues with what is missing.",
    )
    suite.add_argument("--minutes", type=float, default=8.0, help="Time limit of all probes together. Default: 8.")
    suite.add_argument("--probe", action="append", default=[], metavar="NAME", help="Only this probe. May be repeated.")
    _add_folder_of_results(suite, "probes", COMMITTED_FOLDER)


def _add_faults(suites: Any) -> None:
    suite = _add_suite(
        suites,
        "faults",
        run.faults,
        "Is anything wrong or lost if a run is disturbed? Kills, damage, full disks, servers that are away.",
        description="Disturbs real runs at moments that are spread over them, and checks the promises for each kind of "
        "fault. A trial takes 15 to 60 seconds on 2 cores. Results are written when the trials of a kind are done or "
        "Ctrl-C stops them; the same command continues with what is missing.",
    )
    suite.add_argument("--quick", action="store_true", help="One moment of each kind of fault.")
    suite.add_argument("--moments", type=int, metavar="N", help="Moments of each kind of fault. Default: 20.")
    suite.add_argument("--kind", action="append", default=[], metavar="NAME", help="Only this kind. May be repeated.")
    _add_folder_of_results(suite, "trials", Path("results/faults"))


def _add_target(suites: Any) -> None:
    suite = _add_suite(
        suites,
        "target",
        run.target,
        "Minutes and CPU-seconds to a top-1 accuracy on photographs, against torchvision's reference training.",
        description="Trains to the target with every seed, by epochs in turns, which takes hours on 2 cores. Each "
        "epoch is kept; the same command goes on.",
    )
    suite.add_argument("folder", type=existing_folder, help="ImageNet-style folder of photographs (train/, val/).")
    suite.add_argument("--side", type=int, default=64, help="Side of the images in pixels. Default: 64.")
    suite.add_argument("--target", type=float, default=80, help="Top-1 to reach, in per cent. Default: 80.")
    suite.add_argument("--epochs", type=int, default=18, help="Epochs of our recipe. Default: 18.")
    suite.add_argument("--longest-epochs", type=int, default=90, help="The most of torchvision's recipe. Default: 90.")
    suite.add_argument("--seeds", default="3", help="Their number, or a list such as 0,4. Default: 3.")
    suite.add_argument("--threads", type=int, help="CPU threads of each implementation. Default: all cores.")
    suite.add_argument(
        "--implementation",
        action="append",
        metavar="NAME",
        help="Only this one: deeper, torchvision, or one of --parts, such as without-loader. May be repeated.",
    )
    suite.add_argument("--parts", action="store_true", help="Also ours without each of its parts, one at a time.")
    suite.add_argument("--force", action="store_true", help="Repeat trainings that have results already.")
    _add_result(suite)


def _add_suite(
    suites: Any, name: str, call: Callable[[argparse.Namespace], int], help: str, description: str | None = None
) -> argparse.ArgumentParser:
    suite: argparse.ArgumentParser = suites.add_parser(name, help=help, description=description or help)
    suite.set_defaults(call=call)
    return suite


def _add_repetitions(suite: argparse.ArgumentParser, default: int) -> None:
    suite.add_argument("--repetitions", type=int, default=default, help=f"Interleaved repetitions. Default: {default}.")
    # The name that the option has in the commands of committed results.
    suite.add_argument("--rounds", dest="repetitions", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _add_result(suite: argparse.ArgumentParser) -> None:
    suite.add_argument(
        "--json", action="store_true", help="Print the result to standard output as JSON; tables go to standard error."
    )
    suite.add_argument(
        "--output",
        type=output_file,
        nargs="?",
        const=COMMITTED_FOLDER,
        metavar="FILE",
        help=f"Write the result to this file as JSON; without FILE, to the folder {COMMITTED_FOLDER}/.",
    )


def _add_folder_of_results(suite: argparse.ArgumentParser, parts: str, default: Path) -> None:
    suite.add_argument("--force", action="store_true", help=f"Repeat {parts} that have results already.")
    suite.add_argument("--json", action="store_true", help="Print the results to standard output as JSON.")
    suite.add_argument(
        "--output",
        type=output_folder,
        metavar="FOLDER",
        help=f"Folder that the results are written to. Default: {default}.",
    )
