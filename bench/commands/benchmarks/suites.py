"""Starts the suites of `deeper bench` with the options of the command line. Each is imported when it is started.

The function of a suite takes the parsed arguments and returns the exit code.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.errors import UserError

if TYPE_CHECKING:
    from bench.suites.harness.reporting import ResultOutput
    from reproduce.config import C

COMMITTED_FOLDER = Path("results/bench/<kind of machine>")
"""The value of `--output` without a file, which `result_output` replaces by the folder of this kind of machine.

The kind of machine is looked up only then, since that imports torch."""


def result_output(arguments: argparse.Namespace, suite: str) -> ResultOutput:
    """Return the destination of a suite's result."""
    from bench.suites.harness.reporting import ResultOutput

    path: Path | None = arguments.output
    if path == COMMITTED_FOLDER:
        from bench.results.store import COMMITTED, this_machine_kind

        path = COMMITTED / this_machine_kind() / f"{suite}.json"
    return ResultOutput(json=arguments.json, file=path)


def _options(kind: type[C], given: dict[str, Any]) -> C:
    """The options of a suite, from those of the command line; raises `SpecError` if one is out of its range."""
    from reproduce.spec import validated  # it imports pydantic, which the parser does not need

    return validated(kind, given, where="")


def loader(arguments: argparse.Namespace) -> int:
    from bench.suites.loader.suite import LoaderOptions, main, parse_size

    names = ("folder", "images", "batch", "repetitions", "cold", "memory_limit")
    given = {name: getattr(arguments, name) for name in names}
    if arguments.threads is not None:
        given["threads"] = arguments.threads
    if arguments.size is not None:
        given["size"] = parse_size(arguments.size)
    options = _options(LoaderOptions, {**given, "sides": arguments.side})
    return main(options, output=result_output(arguments, "loader"))


def step(arguments: argparse.Namespace) -> int:
    from bench.suites.step.suite import StepOptions, main, suite_name

    given = {
        name: getattr(arguments, name) for name in ("batch", "aux", "engines", "precision", "threads", "repetitions")
    }
    given |= {"sides": arguments.side, "reductions": arguments.reduction, "compiled": arguments.compile}
    options = _options(StepOptions, given)
    return main(options, output=result_output(arguments, suite_name(options.precision)))


def overhead(arguments: argparse.Namespace) -> int:
    from bench.suites.overhead.suite import OverheadOptions, main

    given = {name: getattr(arguments, name) for name in ("repetitions", "workers", "images")}
    options = _options(OverheadOptions, {**given, "costs": not arguments.no_costs})
    return main(options, output=result_output(arguments, "overhead"))


def scaling(arguments: argparse.Namespace) -> int:
    from bench.suites.scaling.suite import ScalingOptions, main

    given = {name: getattr(arguments, name) for name in ("ranks", "side", "batch", "repetitions")}
    return main(_options(ScalingOptions, given), output=result_output(arguments, "scaling"))


def bench(arguments: argparse.Namespace) -> int:
    if not arguments.quick:
        raise UserError("bench: which suite? `deeper bench --help` lists them; --quick takes a few minutes")
    return quick(arguments)


def quick(arguments: argparse.Namespace) -> int:
    from bench.suites.quick import main

    return main(output=result_output(arguments, "quick"))


def training(arguments: argparse.Namespace) -> int:
    from bench.suites.training import TrainingOptions, main

    given = {name: getattr(arguments, name) for name in ("folder", "batch", "repetitions")}
    return main(_options(TrainingOptions, given), output=result_output(arguments, "training"))


def evaluation(arguments: argparse.Namespace) -> int:
    from bench.suites.evaluation import EvaluationOptions, main

    given = {name: getattr(arguments, name) for name in ("data", "repetitions")}
    return main(_options(EvaluationOptions, given), output=result_output(arguments, "evaluation"))


def layers(arguments: argparse.Namespace) -> int:
    from bench.suites.layers import LayersOptions, main

    given = {name: getattr(arguments, name) for name in ("side", "batch", "repetitions")}
    return main(_options(LayersOptions, given), output=result_output(arguments, "layers"))


def report(arguments: argparse.Namespace) -> int:
    from bench.suites.report.suite import ReportOptions, main

    given = {name: getattr(arguments, name) for name in ("runs", "epochs", "server")}
    return main(_options(ReportOptions, given), output=result_output(arguments, "report"))


def gpu(arguments: argparse.Namespace) -> int:
    from bench.suites.gpu.registry import PROBES
    from bench.suites.gpu.runner import GpuOptions, main

    given = {name: getattr(arguments, name) for name in ("minutes", "output", "force")}
    options = _options(GpuOptions, {**given, "probes": arguments.probe, "json_output": arguments.json})
    return main(options, PROBES)


def faults(arguments: argparse.Namespace) -> int:
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


def target(arguments: argparse.Namespace) -> int:
    from bench.suites.target.implementations import IMPLEMENTATIONS
    from bench.suites.target.suite import TargetOptions, main, parse_seeds

    names = ("folder", "side", "target", "epochs", "longest_epochs", "threads", "force")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    chosen = IMPLEMENTATIONS if arguments.parts else arguments.implementation
    given |= {"seeds": parse_seeds(arguments.seeds)} | ({"implementations": tuple(chosen)} if chosen else {})
    return main(_options(TargetOptions, given), output=result_output(arguments, "target"))
