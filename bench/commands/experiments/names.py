"""The name under which an experiment is recorded."""

from __future__ import annotations

from pathlib import Path

from reproduce.errors import UserError, did_you_mean


def experiment_name(name_or_path: str) -> str:
    """Return the name of an experiment given by name or by file.

    If a name is given, the file need not exist any more.
    """
    from reproduce.spec import load_experiment

    if name_or_path.endswith((".yaml", ".yml")):
        return load_experiment(name_or_path).name
    return name_or_path


def recorded_name(name_or_path: str, records: Path) -> str:
    """Return the name of an experiment that has records.

    Raises:
        UserError: It has none; the message suggests a similar name and lists those that have.
    """
    from bench.records.plan import experiments

    name, known = experiment_name(name_or_path), experiments(records)
    if name not in known:
        found = ", ".join(known) or "nothing"
        hint = did_you_mean(name, known) or did_you_mean(name, _shipped_experiments())
        raise UserError(f"experiment: {name!r} has no records in {records}, which holds {found}{hint}")
    return name


def published_name(name_or_path: str, records: Path, tracking_uri: str) -> str:
    """Return the name of an experiment that the tracking store may hold.

    A store below the records that does not exist holds nothing, so that a mistyped name need not wait for MLflow.

    Raises:
        UserError: There is neither such a store nor are there records of this name.
    """
    store = tracking_uri.removeprefix("sqlite:///")
    if store == tracking_uri or Path(store).is_file():
        return experiment_name(name_or_path)
    return recorded_name(name_or_path, records)


def _shipped_experiments() -> list[str]:
    from reproduce.spec import shipped_experiments

    return shipped_experiments()
