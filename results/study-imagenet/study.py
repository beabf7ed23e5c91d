"""What a large study would need, computed and not run: device hours, traffic, load, and what breaks first.

    python results/study-imagenet/study.py [--runs 1000 --nodes 64 --gpus-per-node 8] [--out DIR]

prints Markdown; `--out` writes README.md and study.json. The experiment is `ablation-imagenet` with as many seeds as
the runs need, the profile `gpu-nodes`. Nothing here was measured on a GPU or a cluster.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from study_model import CASE, GPUS, RESULTS, SHARES, Assumed, Counted, Limit, Model, Published, Study, medians

from reproduce.spec import SpecError

HEAD = """# A study of {runs:,} runs on {nodes} nodes, on paper

**Computed, not run.** No GPU, no cluster and no ImageNet were at hand; nothing below was measured on a GPU. It is what
`python results/study-imagenet/study.py` computes from the plan of
[ablation-imagenet](../../reproduce/experiments/ablation-imagenet.yaml) ({arms} arms, {seeds} seeds, {epochs} epochs,
{workers} GPUs a run, {at_once} runs at once), from [measured.json](measured.json), made by [measure.py](measure.py),
and from figures named as public, a vendor's, or ASSUMED. A test holds this page to the model
([study_model.py](study_model.py)).
"""


def document(study: Study) -> tuple[str, dict[str, Any]]:
    """Markdown, and the numbers in it."""
    measured = medians()
    cases = [Model(study, measured, gpu, share) for gpu in GPUS for share in SHARES]
    model = next(case for case in cases if (case.gpu, case.share) == CASE)
    experiment = model.plan.experiment
    parts = [
        HEAD.format(
            runs=study.runs,
            nodes=study.nodes,
            arms=len(experiment.arms),
            seeds=len(experiment.seeds),
            epochs=experiment.recipe.epochs,
            workers=model.resources.workers,
            at_once=model.at_once,
        ),
        _device_hours(cases),
        _storage(model),
        _calls(model),
        _limits(model),
        _inputs(),
    ]
    numbers = {
        "study": asdict(study),
        "training_macs": sum(map(model.plan.training_macs, model.plan.runs)),
        "cases": [
            {"gpu": case.gpu.name, "share": case.share, "device_hours": case.device_hours, "wall_s": case.wall_seconds}
            for case in cases
        ],
        "limits": [{**asdict(limit), "used": limit.used, "breaks_at": limit.breaks_at} for limit in model.limits],
    }
    return "\n".join(parts), _rounded(numbers)


def _device_hours(cases: list[Model]) -> str:
    macs = sum(map(cases[0].plan.training_macs, cases[0].plan.runs))
    rows = [
        (
            case.gpu.name,
            f"{case.share:.0%}",
            f"{case.device_hours:,.0f}",
            f"{case.wall_seconds / 86400:.1f}",
            f"{-(-case.wall_seconds // case.profile.seconds):.0f}",
            f"{case.device_hours * case.gpu.watts / 1e6:.1f}",
            f"{_bound_by_loader(case)} of {len(case.plan.experiment.arms)}",
        )
        for case in cases
    ]
    limit = cases[0].profile.time
    titles = (
        "GPU",
        "share of its peak (ASSUMED)",
        "GPU hours",
        "days",
        "starts of the job",
        "MWh at most",
        "arms the loader holds back",
    )
    return f"""## Device hours

{macs:.3g} multiply-adds of training (a backward pass counts as two forward passes); validation after each epoch comes
on top. Days: every node busy, no queueing, no failure. Starts: one, and a requeue at each time limit of {limit}.
MWh: GPUs alone, at the board's power limit.

{_table(titles, rows)}

The loads below are those of {CASE[0].name} at {CASE[1]:.0%}, a fast case: fast GPUs strain what is around them.
"""


def _bound_by_loader(case: Model) -> int:
    macs = {run.arm: case.plan.costs[run.key]["cost/macs_training"] for run in case.plan.runs}
    return sum(case.gpu_images_per_s(value, passes=3) > case.loader_images_per_s for value in macs.values())


def _storage(model: Model) -> str:
    once = model.study.nodes * model.data_bytes
    rows = [
        ("Both FFCV files, shorter side 256, JPEG quality 90", _si(model.data_bytes, "B")),
        ("All epochs of all runs", _si(model.read_bytes, "B")),
        ("Reading without staging and without a page cache", _si(model.read_bytes / model.wall_seconds, "B/s")),
        ("Reading with staging, in all and for each start of the job", _si(once, "B")),
        ("... which takes, at the file system's ASSUMED rate", f"{once / model.assumed.read_bytes_per_s:.0f} s"),
        ("Checkpoints, on average", _si(model.checkpoint_bytes_per_s, "B/s")),
        ("Telemetry, one sample a second of the host and 8 GPUs, as JSON lines", _si(model.telemetry_bytes, "B")),
        ("Records in all, when done", _si(model.record_bytes, "B")),
        ("... for which `deeper run` asks to be free", _si(model.plan.disk_bytes, "B")),
        ("MLflow's sqlite store", _si(model.study.runs * model.measured["store_run_bytes"], "B")),
        ("Nodes expected to fail meanwhile (public failure rate)", f"{model.failures:.1f}"),
    ]
    return f"""## Storage and time

{_table(("what", "how much"), rows)}

Without staging, a node whose memory holds the files reads each page once from the shared file system and then from its
page cache, so the third line is the worst case: memory that is too small, or a file system without a page cache.
"""


def _calls(model: Model) -> str:
    one, many = model.calls_per_s(), model.calls_per_s(model.at_once)
    rows = [(what, f"{one[what]:,.0f}", f"{many[what]:,.0f}") for what in one]
    return f"""## Calls on the shared file system

Opens, stats, locks and renames a second, at the start, when {model.study.runs - model.at_once} runs wait; the publisher
only where the profile has a tracking_uri. Every driver looks at all runs, so an array's elements multiply the looks.
Telemetry adds {model.at_once} small appends a second, which need no metadata.

{_table(("what", "one driver", f"--split {model.at_once}"), rows)}
"""


def _limits(model: Model) -> str:
    rows = [
        (
            limit.what,
            _si(limit.load),
            _si(limit.capacity),
            limit.unit,
            f"{limit.used:.3g}",
            f"{_si(limit.breaks_at)} {limit.grows_with}",
            limit.source,
            limit.remedy,
        )
        for limit in model.limits
    ]
    titles = (
        "what",
        "load",
        "capacity",
        "unit",
        "used",
        "breaks at",
        "source of load; capacity",
        "what we would change",
    )
    return f"""## Where it would break first

Fullest first; above 1 it breaks. "Breaks at" takes the load as proportional
and holds all else equal.

{_table(titles, rows)}

{_verdict(model.limits)}
"""


def _verdict(limits: list[Limit]) -> str:
    broken = [limit.what for limit in limits if limit.used >= 1]
    if not broken:
        return "Nothing breaks in this study."
    return "Breaks in this study: " + "; ".join(broken) + "."


def _inputs() -> str:
    content = json.loads((RESULTS / "measured.json").read_text(encoding="utf-8"))
    machine = content["environment"]["machine"]
    medians_ = medians()
    measured = [
        (name, f"{medians_[name]:.4g}", figure["unit"], _spread(figure["values"]), figure["what"])
        for name, figure in content["figures"].items()
    ]
    vendor = [(gpu.name, f"{gpu.flops / 1e12:.0f} TFLOP/s dense bf16, {gpu.watts:.0f} W", gpu.source) for gpu in GPUS]
    other = "\n\n".join(
        f"{type(group).__name__}. {' '.join((type(group).__doc__ or '').split())}\n\n"
        + _table(
            ("what", "value", "source"),
            [(x.name, _si(getattr(group, x.name)), x.metadata["source"]) for x in fields(group)],
        )
        for group in (Assumed(), Published(), Counted())
    )
    return f"""## Inputs

Measured {content["date"]} on {machine["cores"]} cores of an {machine["cpu"]}, shared with other work, local disk; torch
{content["environment"]["packages"]["torch"]}, Ray {content["environment"]["packages"]["ray"]}, MLflow
{content["environment"]["packages"]["mlflow"]}. Medians; n values and their range beside them.

{_table(("name", "median", "unit", "n; range", "what"), measured)}

The images' bytes a pixel come from 224-pixel JPEGs compressed before, so they may be too low; those decoded were
enlarged from 224 pixels. Neither is ImageNet, and a cluster's cores are others.

{other}

Vendors' figures:

{_table(("GPU", "figures", "source"), vendor)}

ImageNet (ILSVRC 2012): 1 281 167 training and 50 000 validation images, public.
"""


def _spread(values: list[float]) -> str:
    return f"{len(values)}; {min(values):.4g} to {max(values):.4g}"


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(titles), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _si(value: float, unit: str = "") -> str:
    """Three digits with a decimal prefix: 33600000000 bytes are 33.6 GB."""
    for prefix, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor * (10 if prefix == "k" else 1):
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in asdict(Study()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"({default})")
    parser.add_argument("--out", type=Path, help="folder for README.md and study.json, in place of the terminal")
    options = vars(parser.parse_args())
    out: Path | None = options.pop("out")
    try:
        text, numbers = document(Study(**options))
    except SpecError as error:
        parser.error(str(error))
    if out is None:
        print(text, end="")
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").write_text(text, encoding="utf-8")
    (out / "study.json").write_text(dumps(numbers), encoding="utf-8")


def dumps(numbers: Any) -> str:
    return json.dumps(numbers, indent=1) + "\n"


if __name__ == "__main__":
    main()
