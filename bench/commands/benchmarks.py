"""`deeper bench`: ours and its peers in turn, on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reproduce.spec import SpecError, validated

OF_KIND = Path("results/bench/<kind of machine>")
"""`--json` without a file; which kind this machine is, is only looked up once it is needed."""


def add_to(verbs: Any, places: argparse.ArgumentParser) -> None:
    bench = verbs.add_parser("bench", help="benchmarks beside their peers, interleaved in one run")
    bench.add_argument("--quick", action="store_true", help="the same as the suite quick")
    bench.set_defaults(call=_bench, json=None)
    suites = bench.add_subparsers(metavar="SUITE")
    _add_loader(suites)
    _add_step(suites)
    _add_overhead(suites)
    _add_scaling(suites)
    _add_quick(suites)
    _add_training(suites)
    _add_evaluation(suites)
    _add_gpu(suites)


def _add_loader(suites: Any) -> None:
    suite = suites.add_parser("loader", help="our loader against FFCV, DALI and torchvision")
    suite.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="ImageNet-style folder of photographs (train/<class>/*.jpg); without one, pictures are generated",
    )
    suite.add_argument("--size", metavar="WxH", help="compare on mosaics of them of this size, too: 500x375")
    suite.add_argument("--side", type=int, nargs="+", default=[224, 64], help="sides of the crops in pixels (224 64)")
    suite.add_argument("--images", type=int, default=512, help="photographs read (512)")
    suite.add_argument("--batch", type=int, default=32, help="images a batch (32)")
    suite.add_argument("--threads", type=int, help="decoding threads of a last comparison (the cores; others have 1)")
    _add_rounds(suite, rounds=3)
    suite.set_defaults(call=_loader)


def _add_step(suites: Any) -> None:
    suite = suites.add_parser("step", help="forward, backward and update against torchvision's googlenet, without data")
    suite.add_argument("--side", type=int, nargs="+", default=[224, 64], help="pixels (224 64)")
    suite.add_argument("--batch", type=int, help="images a step (32 at 224 px on CPUs, 256 on GPUs)")
    suite.add_argument("--reduction", nargs="+", default=["reduced"], help="reduced, unreduced, naive (reduced)")
    suite.add_argument("--aux", nargs="+", default=["both"], help="heads: both, none, aux1, aux2 (both)")
    suite.add_argument("--compile", action="store_true", help="compiled networks, too (minutes on CPUs)")
    suite.add_argument("--threads", type=int, help="of torch (the cores)")
    _add_rounds(suite)
    suite.set_defaults(call=_step)


def _add_overhead(suites: Any) -> None:
    suite = suites.add_parser("overhead", help="a run by the suite against the same worker plain and under torchrun")
    suite.add_argument("--workers", type=int, default=1, help="ranks of the run (1)")
    suite.add_argument("--images", type=int, default=2048, help="training images of a run (2048)")
    suite.add_argument("--no-costs", action="store_true", help="leave out the cost of each record alone")
    _add_rounds(suite, rounds=3)
    suite.set_defaults(call=_overhead)


def _add_scaling(suites: Any) -> None:
    suite = suites.add_parser("scaling", help="images/s over ranks, and what a model of communication predicts")
    suite.add_argument("--ranks", type=int, help="at most (the GPUs, or the cores of a machine without)")
    suite.add_argument("--side", type=int, default=224, help="pixels (224)")
    suite.add_argument("--batch", type=int, default=16, help="images a rank and step (16)")
    _add_rounds(suite)
    suite.set_defaults(call=_scaling)


def _add_quick(suites: Any) -> None:
    suite = suites.add_parser("quick", help="in two minutes: has a ratio got worse since the committed results?")
    _add_json(suite)
    suite.set_defaults(call=_quick)


def _add_training(suites: Any) -> None:
    suite = suites.add_parser(
        "training", help="images/s against torchvision's googlenet fed by ImageFolder and DataLoader"
    )
    suite.add_argument("folder", type=Path, help="ImageNet-style folder of photographs (train/<class>/*)")
    suite.add_argument("--batch", type=int, default=32, help="images a step (32, that of Caffe's bvlc_googlenet)")
    _add_rounds(suite)
    suite.set_defaults(call=_training)


def _add_evaluation(suites: Any) -> None:
    suite = suites.add_parser("evaluation", help="144 crops an image against the bare network's forward pass")
    suite.add_argument("data", type=Path, help="a prepared data set of photographs")
    _add_rounds(suite)
    suite.set_defaults(call=_evaluation)


def _add_gpu(suites: Any) -> None:
    suite = suites.add_parser(
        "gpu",
        help="in minutes: is this machine right, how fast is it? On GPUs, and as far as it goes on CPUs",
        description="Parts in order of worth, each with a limit of time of its own. Each result is written to "
        "OUT/gpu/PART.json as soon as it is there; at the end, or on Ctrl-C, a table in Markdown. The same command "
        "goes on with what is missing.",
    )
    suite.add_argument("--minutes", type=float, default=8.0, help="for all parts together (8)")
    suite.add_argument("--out", type=Path, help=f"folder of the results ({OF_KIND})")
    suite.add_argument("--part", action="append", default=[], metavar="NAME", help="only this one (may be repeated)")
    suite.add_argument("--force", action="store_true", help="repeat parts whose results are there")
    suite.set_defaults(call=_gpu)


def _add_rounds(suite: argparse.ArgumentParser, rounds: int = 5) -> None:
    suite.add_argument("--rounds", type=int, default=rounds, help=f"interleaved rounds ({rounds})")
    _add_json(suite)


def _add_json(suite: argparse.ArgumentParser) -> None:
    suite.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=OF_KIND,
        metavar="FILE",
        help=f"write the raw results here; without FILE to {OF_KIND}/",
    )


def _output(arguments: argparse.Namespace, suite: str) -> Path | None:
    """Where the raw results go. Raises `SpecError`."""
    path: Path | None = arguments.json
    if path == OF_KIND:
        from bench.results.store import COMMITTED, here

        return COMMITTED / here() / f"{suite}.json"
    if path is not None and path.is_dir():
        raise SpecError(f"--json: {path} is a folder; give a file, or none for {OF_KIND}/")
    return path


def _loader(arguments: argparse.Namespace) -> int:
    from bench.suites.loader.suite import LoaderOptions, main, size_from

    given = {name: getattr(arguments, name) for name in ("folder", "images", "batch", "rounds")}
    if arguments.threads is not None:
        given["threads"] = arguments.threads
    if arguments.size is not None:
        given["size"] = size_from(arguments.size)
    options = validated(LoaderOptions, {**given, "sides": arguments.side}, where="")
    return main(options, output=_output(arguments, "loader"))


def _step(arguments: argparse.Namespace) -> int:
    from bench.suites.step.suite import StepOptions, main

    given = {
        "sides": arguments.side,
        "batch": arguments.batch,
        "reductions": arguments.reduction,
        "aux": arguments.aux,
        "compiled": arguments.compile,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
    }
    return main(validated(StepOptions, given, where=""), output=_output(arguments, "step"))


def _overhead(arguments: argparse.Namespace) -> int:
    from bench.suites.overhead.suite import OverheadOptions, main

    given = {name: getattr(arguments, name) for name in ("rounds", "workers", "images")}
    options = validated(OverheadOptions, {**given, "costs": not arguments.no_costs}, where="")
    return main(options, output=_output(arguments, "overhead"))


def _scaling(arguments: argparse.Namespace) -> int:
    from bench.suites.scaling import ScalingOptions, main

    given = {name: getattr(arguments, name) for name in ("ranks", "side", "batch", "rounds")}
    return main(validated(ScalingOptions, given, where=""), output=_output(arguments, "scaling"))


def _bench(arguments: argparse.Namespace) -> int:
    if not arguments.quick:
        raise SpecError("bench: which suite? `deeper bench --help` lists them; --quick takes two minutes")
    return _quick(arguments)


def _quick(arguments: argparse.Namespace) -> int:
    from bench.suites.quick import main

    return main(output=_output(arguments, "quick"))


def _training(arguments: argparse.Namespace) -> int:
    from bench.suites.training import main

    return main(arguments.folder, batch=arguments.batch, rounds=arguments.rounds, output=_output(arguments, "training"))


def _evaluation(arguments: argparse.Namespace) -> int:
    from bench.suites.evaluation import main

    return main(arguments.data, rounds=arguments.rounds, output=_output(arguments, "evaluation"))


def _gpu(arguments: argparse.Namespace) -> int:
    from bench.suites.gpu.registry import PARTS
    from bench.suites.gpu.runner import GpuOptions, main

    given = {name: getattr(arguments, name) for name in ("minutes", "out", "force")}
    return main(validated(GpuOptions, {**given, "parts": arguments.part}, where=""), PARTS)
