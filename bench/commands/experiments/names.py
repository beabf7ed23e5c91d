"""Finds the name under which an experiment is recorded."""

from __future__ import annotations

from pathlib import Path

from reproduce.errors import UserError, did_you_mean


def experiment_name(name_or_path: str) -> str:
    """Return the name of an experiment that is given by its name or its file.

    Args:
        name_or_path: A name, which is returned unchanged and unchecked, or the path of an experiment file (`*.yaml`,
            `*.yml`), which is read.

    Raises:
        SpecError: The file does not exist or is not valid.
    """
    from reproduce.spec import load_experiment

    if name_or_path.endswith((".yaml", ".yml")):
        return load_experiment(name_or_path).name
    return name_or_path


def recorded_name(name_or_path: str, records: Path) -> str:
    """Return the name of an experiment, and check that the experiment has a plan in these records.

    Args:
        name_or_path: The name of the experiment, or the path of its file.
        records: The folder of the records.

    Raises:
        UserError: The experiment has no plan there, or its file is not valid. If it has no plan, the message lists the
            experiments that have one and suggests a similar name.
    """
    from bench.records.plan import experiments

    name, known = experiment_name(name_or_path), experiments(records)
    if name not in known:
        found = ", ".join(known) or "nothing"
        shipped = _shipped_experiments()
        if name in shipped:
            hint = f"; run it first: deeper run {name}"
        else:
            hint = did_you_mean(name, known) or did_you_mean(name, shipped)
        raise UserError(f"experiment: {name!r} has no records in {records}, which holds {found}{hint}")
    return name


def published_name(name_or_path: str, records: Path, tracking_uri: str) -> str:
    """Return the name of an experiment that the tracking store may hold, without contacting the store.

    If the tracking store is an SQLite file that does not exist, the experiment must have a plan in the records, so that
    a mistyped name is reported before MLflow is imported. Otherwise, the name is not checked.

    Args:
        name_or_path: The name of the experiment, or the path of its file.
        records: The folder of the records.
        tracking_uri: The URI of the tracking store.

    Raises:
        UserError: There is neither such an SQLite file nor a plan of this experiment, or its file is not valid.
    """
    from bench.tracking.location import store_exists

    if store_exists(tracking_uri):
        return experiment_name(name_or_path)
    return recorded_name(name_or_path, records)


def own_plan(records: Path, name: str) -> str | None:
    """Return the hash of the present plan of an experiment in these records, or None if they hold no plan of it."""
    from bench.records.plan import experiments, read_plans

    return read_plans(records, name)[0].hash if name in experiments(records) else None


def _shipped_experiments() -> list[str]:
    from reproduce.experiments import shipped_experiments

    return shipped_experiments()
