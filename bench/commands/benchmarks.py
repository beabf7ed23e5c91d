"""Implements `deeper bench`, which measures this project beside its baselines on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.options import existing_folder, output_file, output_folder
from reproduce.errors import UserError

if TYPE_CHECKING:
    from bench.suites.harness.reporting import ResultOutput
    from reproduce.config import C

COMMITTED_FOLDER = Path("results/bench/<kind of machine>")
"""The value of `--output` without a file, which `_result_output` replaces by the folder of this kind of machine.

The kind of machine is looked up only then, since that imports torch."""


def add_to(subparsers: Any, places: argparse.ArgumentParser) -> None:
    """Add `deeper bench` and its suites to the command line."""
    bench = subparsers.add_parser("bench", help="Benchmarks beside their baselines, with interleaved repetitions.")
    bench.add_argument("--quick", action="store_true", help="The same as the suite quick.")
    bench.set_defaults(call=_bench, json=False, output=None)
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


# --- options ------------------------------------------------------------------------------------------


def _add_loader(suites: Any) -> None:
    suite = _add_suite(suites, "loader", _loader, "Our loader against FFCV, DALI and torchvision.")
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
    suite = _add_suite(suites, "step", _step, "Training step and evaluation without data, against torchvision's.")
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
    suite = _add_suite(suites, "overhead", _overhead, "A recorded run against the same training plain and by torchrun.")
    suite.add_argument("--workers", type=int, default=1, help="Ranks of the run. Default: 1.")
    suite.add_argument("--images", type=int, default=2048, help="Training images. Default: 2048.")
    suite.add_argument("--no-costs", action="store_true", help="Leave out the cost of each record alone.")
    _add_repetitions(suite, 3)
    _add_result(suite)


def _add_scaling(suites: Any) -> None:
    suite = _add_suite(suites, "scaling", _scaling, "Images/s by number of ranks, and what the planner predicts.")
    suite.add_argument(
        "--ranks", type=int, help="The largest number of ranks. Default: all GPUs, or all cores without GPUs."
    )
    suite.add_argument("--side", type=int, default=224, help="Side of the images in pixels. Default: 224.")
    suite.add_argument("--batch", type=int, default=16, help="Images of a rank in a step. Default: 16.")
    _add_repetitions(suite, 5)
    _add_result(suite)


def _add_quick(suites: Any) -> None:
    suite = _add_suite(suites, "quick", _quick, "Has a ratio got worse since the committed results?")
    _add_result(suite)


def _add_training(suites: Any) -> None:
    suite = _add_suite(
        suites, "training", _training, "Images/s from end to end, against torchvision with ImageFolder and DataLoader."
    )
    suite.add_argument("folder", type=existing_folder, help="ImageNet-style folder of photographs (train/, val/).")
    suite.add_argument(
        "--batch", type=int, default=32, help="Images in a step. Default: 32, as in Caffe's bvlc_googlenet."
    )
    _add_repetitions(suite, 5)
    _add_result(suite)


def _add_evaluation(suites: Any) -> None:
    suite = _add_suite(
        suites, "evaluation", _evaluation, "144 crops of an image against the forward pass of the network alone."
    )
    suite.add_argument("data", type=existing_folder, help="Folder of a prepared data set of photographs.")
    _add_repetitions(suite, 5)
    _add_result(suite)


def _add_layers(suites: Any) -> None:
    suite = _add_suite(
        suites, "layers", _layers, "Speeds that claims are about: 1x1 reductions, and a sparse against a dense layer."
    )
    suite.add_argument("--side", type=int, default=64, help="Side of the images of a step in pixels. Default: 64.")
    suite.add_argument("--batch", type=int, default=64, help="Images in a step. Default: 64.")
    _add_repetitions(suite, 7)
    _add_result(suite)


def _add_report(suites: Any) -> None:
    suite = _add_suite(
        suites,
        "report",
        _report,
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
        _gpu,
        "Does this machine work, and how fast is it? In minutes; for GPUs, and as far as possible for CPUs.",
        description="Runs probes, the most valuable ones first, each with a time limit of its own. A result is written "
        "to FOLDER/gpu/PROBE.json as soon as it is known; at the end, or on Ctrl-C, all are printed as Markdown. The "
        "same command continues with what is missing.",
    )
    suite.add_argument("--minutes", type=float, default=8.0, help="Time limit of all probes together. Default: 8.")
    suite.add_argument("--probe", action="append", default=[], metavar="NAME", help="Only this probe. May be repeated.")
    suite.add_argument("--force", action="store_true", help="Repeat probes that have results already.")
    suite.add_argument("--json", action="store_true", help="Print the results to standard output as JSON.")
    suite.add_argument(
        "--output",
        type=output_folder,
        metavar="FOLDER",
        help=f"Folder that the results are written to. Default: {COMMITTED_FOLDER}.",
    )


def _add_faults(suites: Any) -> None:
    suite = _add_suite(
        suites,
        "faults",
        _faults,
        "Is anything wrong or lost if a run is disturbed? Kills, damage, full disks, servers that are away.",
        description="Disturbs real runs at moments that are spread over them, and checks the promises for each kind of "
        "fault. A trial takes 15 to 60 seconds on 2 cores. Results are written when the trials of a kind are done or "
        "Ctrl-C stops them; the same command continues with what is missing.",
    )
    suite.add_argument("--quick", action="store_true", help="One moment of each kind of fault.")
    suite.add_argument("--moments", type=int, metavar="N", help="Moments of each kind of fault. Default: 20.")
    suite.add_argument("--kind", action="append", default=[], metavar="NAME", help="Only this kind. May be repeated.")
    suite.add_argument("--force", action="store_true", help="Repeat trials that have results already.")
    suite.add_argument("--json", action="store_true", help="Print the results to standard output as JSON.")
    suite.add_argument(
        "--output",
        type=output_folder,
        metavar="FOLDER",
        help="Folder that the results are written to. Default: results/faults.",
    )


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


def _result_output(arguments: argparse.Namespace, suite: str) -> ResultOutput:
    """Return the destination of a suite's result."""
    from bench.suites.harness.reporting import ResultOutput

    path: Path | None = arguments.output
    if path == COMMITTED_FOLDER:
        from bench.results.store import COMMITTED, this_machine_kind

        path = COMMITTED / this_machine_kind() / f"{suite}.json"
    return ResultOutput(json=arguments.json, file=path)


# --- suites -------------------------------------------------------------------------------------------


def _options(kind: type[C], given: dict[str, Any]) -> C:
    """The options of a suite, from those of the command line; raises `SpecError` if one is out of its range."""
    from reproduce.spec import validated  # it imports pydantic, which the parser does not need

    return validated(kind, given, where="")


def _loader(arguments: argparse.Namespace) -> int:
    from bench.suites.loader.suite import LoaderOptions, main, parse_size

    names = ("folder", "images", "batch", "repetitions", "cold", "memory_limit")
    given = {name: getattr(arguments, name) for name in names}
    if arguments.threads is not None:
        given["threads"] = arguments.threads
    if arguments.size is not None:
        given["size"] = parse_size(arguments.size)
    options = _options(LoaderOptions, {**given, "sides": arguments.side})
    return main(options, output=_result_output(arguments, "loader"))


def _step(arguments: argparse.Namespace) -> int:
    from bench.suites.step.suite import StepOptions, main, suite_name

    given = {
        "sides": arguments.side,
        "batch": arguments.batch,
        "reductions": arguments.reduction,
        "aux": arguments.aux,
        "compiled": arguments.compile,
        "engines": arguments.engines,
        "precision": arguments.precision,
        "threads": arguments.threads,
        "repetitions": arguments.repetitions,
    }
    options = _options(StepOptions, given)
    return main(options, output=_result_output(arguments, suite_name(options.precision)))


def _overhead(arguments: argparse.Namespace) -> int:
    from bench.suites.overhead.suite import OverheadOptions, main

    given = {name: getattr(arguments, name) for name in ("repetitions", "workers", "images")}
    options = _options(OverheadOptions, {**given, "costs": not arguments.no_costs})
    return main(options, output=_result_output(arguments, "overhead"))


def _scaling(arguments: argparse.Namespace) -> int:
    from bench.suites.scaling import ScalingOptions, main

    given = {name: getattr(arguments, name) for name in ("ranks", "side", "batch", "repetitions")}
    return main(_options(ScalingOptions, given), output=_result_output(arguments, "scaling"))


def _bench(arguments: argparse.Namespace) -> int:
    if not arguments.quick:
        raise UserError("bench: which suite? `deeper bench --help` lists them; --quick takes a few minutes")
    return _quick(arguments)


def _quick(arguments: argparse.Namespace) -> int:
    from bench.suites.quick import main

    return main(output=_result_output(arguments, "quick"))


def _training(arguments: argparse.Namespace) -> int:
    from bench.suites.training import TrainingOptions, main

    given = {name: getattr(arguments, name) for name in ("folder", "batch", "repetitions")}
    return main(_options(TrainingOptions, given), output=_result_output(arguments, "training"))


def _evaluation(arguments: argparse.Namespace) -> int:
    from bench.suites.evaluation import EvaluationOptions, main

    given = {name: getattr(arguments, name) for name in ("data", "repetitions")}
    return main(_options(EvaluationOptions, given), output=_result_output(arguments, "evaluation"))


def _layers(arguments: argparse.Namespace) -> int:
    from bench.suites.layers import LayersOptions, main

    given = {name: getattr(arguments, name) for name in ("side", "batch", "repetitions")}
    return main(_options(LayersOptions, given), output=_result_output(arguments, "layers"))


def _report(arguments: argparse.Namespace) -> int:
    from bench.suites.report.suite import ReportOptions, main

    given = {name: getattr(arguments, name) for name in ("runs", "epochs", "server")}
    return main(_options(ReportOptions, given), output=_result_output(arguments, "report"))


def _gpu(arguments: argparse.Namespace) -> int:
    from bench.suites.gpu.registry import PROBES
    from bench.suites.gpu.runner import GpuOptions, main

    given = {name: getattr(arguments, name) for name in ("minutes", "output", "force")}
    options = _options(GpuOptions, {**given, "probes": arguments.probe, "json_output": arguments.json})
    return main(options, PROBES)


def _faults(arguments: argparse.Namespace) -> int:
    from bench.suites.faults.registry import KINDS
    from bench.suites.faults.runner import MOMENTS, QUICK_MOMENTS, FaultOptions, main

    default = QUICK_MOMENTS if arguments.quick else MOMENTS
    given = {
        "moments": default if arguments.moments is None else arguments.moments,
        "kinds": arguments.kind,
        "output": arguments.output,
        "force": arguments.force,
        "json_output": arguments.json,
    }
    return main(_options(FaultOptions, given), KINDS)
