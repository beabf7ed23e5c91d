"""Describes an archive of an experiment and writes it: a zip file with metadata of the RO-Crate 1.1 specification.

The metadata follow the profile Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5): each run is an action,
which took the experiment and the data set, was performed by this program at one commit, and has a folder of records as
its result. Files are named as in the records, so that an unpacked archive is a folder of records itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from bench.records.archiving.contents import ArchiveError, Contents
from bench.records.finished_runs import read_config
from bench.records.plan import EXPERIMENT, PlanEntry, experiment_folder
from bench.records.reading import read_mapping
from bench.records.states import RunState, read_events, run_folder
from reproduce import schema
from reproduce.files.atomic import replacing
from reproduce.spec import RunConfig

if TYPE_CHECKING:
    from rocrate.model.entity import Entity
    from rocrate.rocrate import ROCrate

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
SPDX = "https://spdx.org/licenses/"
RECORDS = "records"
"""The folder of records within an archive."""
REPORT = "report"
STATUS = {"finished": "Completed", "failed": "Failed", "interrupted": "Active"}
"""Statuses of schema.org by the statuses of runs. An interrupted run can go on."""
KINDS = {
    ".yaml": "application/yaml",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".parquet": "application/vnd.apache.parquet",
    ".pt": "application/octet-stream",
    ".diff": "text/x-diff",
}
"""Media types by the ends of names."""


@dataclass(frozen=True, kw_only=True)
class Citation:
    """What an archive says about itself for those who cite it."""

    license: str
    """The licence of the records: the URL of its text, or its identifier in the list of SPDX."""
    authors: Sequence[str] = ()
    """Names, each with an ORCID in brackets if there is one: `Ann Lee (0000-0002-1825-0097)`."""


def require_rocrate() -> None:
    """Check that the package is installed which writes archives.

    Raises:
        ArchiveError: It is not.
    """
    if find_spec("rocrate") is None:
        raise ArchiveError(
            "archive: needs the package rocrate, which is not installed; install it with: pip install 'deeper[archive]'"
        )


def write_archive(
    output: Path, records: Path, contents: Contents, citation: Citation, *, report: Path | None = None
) -> None:
    """Write the archive. It appears whole or not at all.

    Args:
        output: The zip file to write. Its folder must exist.
        records: The folder of the records.
        contents: What `choose_contents` chose from them.
        citation: What the archive says about itself.
        report: A folder with the report of the experiment, which is included.

    Raises:
        ArchiveError: The package rocrate is not installed.
        DiskFullError: There is no room.
    """
    require_rocrate()
    crate = describe(records, contents, citation, report=report)
    folders = [entity.id for entity in crate.data_entities if entity.type == "Dataset"]
    with replacing(output) as file:
        for chunk in crate.stream_zip():
            file.write(chunk)
        file.flush()
        with ZipFile(file.name, "a") as archive:
            for name in folders:  # the specification asks for them, and rocrate writes their files alone
                archive.mkdir(name)


def describe(records: Path, contents: Contents, citation: Citation, *, report: Path | None = None) -> ROCrate:
    """Describe the files of an archive and what they came from. The arguments are those of `write_archive`."""
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version="1.1")
    note = _experiment_note(records, contents.experiment)
    crate.name = f"{contents.experiment}: runs of Deeper"
    crate.description = (
        f"{note}{contents.finished} of {len(contents.plan)} runs are finished, each with its configuration, events, "
        "environment, telemetry and predictions."
    )
    crate.license = _add(crate, *_license(citation.license))
    if citation.authors:
        crate.root_dataset["author"] = _single([_add(crate, *_author(author)) for author in citation.authors])
    crate.root_dataset["conformsTo"] = _add(
        crate, PROFILE, {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    )
    inputs = [_add_file(crate, records, path) for path in contents.of_experiment]
    plans = [entity for entity, path in zip(inputs, contents.of_experiment, strict=True) if path.name == EXPERIMENT]
    for entry in contents.plan:
        if entry.key in contents.states:
            crate.root_dataset.append_to("mentions", _add_run(crate, records, contents, entry, plans))
    if report is not None:
        crate.add_dataset(report, f"{REPORT}/", properties={"name": f"Report of {contents.experiment}"})
    return crate


def _experiment_note(records: Path, experiment: str) -> str:
    path = experiment_folder(records, experiment) / EXPERIMENT
    content = read_mapping(path) if path.is_file() else {}
    description = " ".join(str(content.get("description") or "").split())
    return f"{description.rstrip('.')}. " if description else ""


def _add_run(crate: ROCrate, records: Path, contents: Contents, entry: PlanEntry, inputs: Sequence[Entity]) -> Entity:
    """Describe a run: its folder, the action that made it, and the program, data set and machines of that action."""
    state, folder = contents.states[entry.key], run_folder(records, entry.key)
    starts = [event for event in read_events(folder) if event["kind"] == schema.START]
    config = read_config(folder)
    result = crate.add_dataset(
        dest_path=f"{RECORDS}/{folder.relative_to(records)}/",
        properties={
            "name": entry.name,
            "description": f"Records of the run {entry.key}: arm {entry.arm}, seed {entry.seed}",
        },
    )
    for path in contents.of_runs[entry.key]:
        result.append_to("hasPart", _add_file(crate, records, path))
    for name, value in _figures(state):
        measured = _add(
            crate, f"#{entry.key}-{name.replace('/', '-')}", {"@type": "PropertyValue", "name": name, "value": value}
        )
        result.append_to("variableMeasured", measured)
    properties: dict[str, Any] = {
        "name": entry.name,
        "startTime": _time(state.started),
        "endTime": _time(state.updated),
        "actionStatus": f"http://schema.org/{STATUS[state.status]}ActionStatus",
    }
    if state.error:
        properties["error"] = state.error
    environments = [start["environment"] for start in starts]
    return crate.add_action(
        _single([_program(crate, environment) for environment in _distinct(environments)]),
        identifier=f"#run-{entry.key}",
        object=_single([*inputs, _data_set(crate, config)]),
        result=result,
        properties=properties | {"description": f"{state.attempt} attempts on {', '.join(_machines(environments))}"},
    )


def _distinct(environments: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield one environment for each state of the code."""
    yield from {(one["commit"], one.get("dirty")): one for one in environments}.values()


def _program(crate: ROCrate, environment: Mapping[str, Any]) -> Entity:
    commit, dirty = environment["commit"] or "unknown", bool(environment.get("dirty"))
    packages, changed = environment["packages"], ", with uncommitted changes" if dirty else ""
    return _add(
        crate,
        f"#deeper-{commit}{'-changed' if dirty else ''}",
        {
            "@type": "SoftwareApplication",
            "name": "Deeper",
            "softwareVersion": f"{packages.get('deeper', '')}, commit {commit}{changed}",
            "softwareRequirements": [f"{name} {version}" for name, version in packages.items() if name != "deeper"],
        },
    )


def _data_set(crate: ROCrate, config: RunConfig) -> Entity:
    """Describe the data set, which is not in the archive, by the hash that runs are checked against."""
    digest = config.data_hash
    properties = {
        "@type": "CreativeWork",
        "name": f"Data set {config.data.source}",
        "identifier": f"sha256:{digest}",
    }
    return _add(crate, f"#data-{digest}", properties)


def _machines(environments: Sequence[Mapping[str, Any]]) -> list[str]:
    names = ([one["machine"]["cpu"], *(gpu["name"] for gpu in one.get("gpus", ()))] for one in environments)
    kinds = map(", ".join, names)
    return list(dict.fromkeys(kinds))


def _figures(state: RunState) -> list[tuple[str, float]]:
    names = (schema.FINAL_TOP1, schema.FINAL_TOP5, schema.FINAL_VAL_LOSS)
    return [(name, state.metrics[name]) for name in names if name in state.metrics]


def _license(text: str) -> tuple[str, dict[str, Any]]:
    url = text if "://" in text else f"{SPDX}{text}"
    return url, {"@type": "CreativeWork", "name": text.removeprefix(SPDX), "description": f"The license {text}"}


def _author(text: str) -> tuple[str, dict[str, Any]]:
    name, bracket, orcid = text.partition("(")
    identifier = f"https://orcid.org/{orcid.rstrip(') ')}" if bracket else f"#{'-'.join(name.split())}"
    return identifier, {"@type": "Person", "name": name.strip()}


def _add_file(crate: ROCrate, records: Path, path: Path) -> Entity:
    properties: dict[str, Any] = {"name": path.name}
    if kind := KINDS.get(path.suffix):
        properties["encodingFormat"] = kind
    return crate.add_file(records / path, f"{RECORDS}/{path}", properties=properties, record_size=True)


def _add(crate: ROCrate, identifier: str, properties: Mapping[str, Any]) -> Entity:
    """Add what is no file, once for each identifier."""
    from rocrate.model.contextentity import ContextEntity

    return crate.get(identifier) or crate.add(ContextEntity(crate, identifier, properties=dict(properties)))


def _single(values: list[Any]) -> Any:
    """Return the only value of a list in place of the list, as the specification recommends."""
    return values[0] if len(values) == 1 else values


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
