"""`deeper new`, `deeper diff`, `deeper schema`: for those who write experiments of their own."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.exit_codes import DONE
from bench.console.options import add_verb
from reproduce.errors import UserError

if TYPE_CHECKING:
    from reproduce.authoring import Comparison

NEW_EXAMPLES = """examples:
  deeper new my-study --from ablation-imagenette      # writes my-study.yaml, to be edited
  deeper plan my-study.yaml                           # says what is wrong with it, or what it will cost
"""
DIFF_EXAMPLES = """examples:
  deeper diff ablation-imagenette my-study.yaml
  deeper diff claim-heads claim-reductions --json
"""
SCHEMA_EXAMPLES = """examples:
  deeper schema experiment > experiment.schema.json
  # then, as the first line of an experiment file, for editors with the YAML language server:
  # yaml-language-server: $schema=experiment.schema.json
"""


def add_to(verbs: Any, places: argparse.ArgumentParser) -> None:
    help = "write an experiment file of your own, every field with its comment"
    new = add_verb(verbs, places, "new", _new, help, examples=NEW_EXAMPLES)
    new.add_argument("name", help="of the new experiment; the file is NAME.yaml in this folder")
    new.add_argument(
        "--from",
        dest="source",
        default="quickstart",
        help="experiment to start from, a file or a shipped one (quickstart)",
    )
    new.add_argument("--output", type=Path, metavar="FILE", help="file to write, in place of NAME.yaml")

    help = "what differs between two experiments, and which runs they share"
    diff = add_verb(verbs, places, "diff", _diff, help, examples=DIFF_EXAMPLES)
    diff.add_argument("first", help="a file (*.yaml) or the name of a shipped experiment")
    diff.add_argument("second", help="likewise")
    diff.add_argument("--json", action="store_true", help="print the differences as JSON")

    help = "print the JSON Schema of experiment files, with which editors complete fields and mark mistakes"
    schema = add_verb(verbs, places, "schema", _schema, help, examples=SCHEMA_EXAMPLES)
    schema.add_argument("kind", choices=["experiment"], help="kind of file")


def _new(arguments: argparse.Namespace) -> int:
    from reproduce.authoring import experiment_text
    from reproduce.spec import load_experiment

    text = experiment_text(load_experiment(arguments.source), arguments.name)
    path: Path = arguments.output or Path(f"{arguments.name}.yaml")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"--output: {path} exists already; remove it, or name another file") from None
    except OSError as error:
        raise UserError(
            f"--output: {path} cannot be written: {error.strerror}; name a file in a folder of yours"
        ) from None
    print(f"{path} is written. Edit it, then: deeper plan {path}")
    return DONE


def _diff(arguments: argparse.Namespace) -> int:
    from reproduce.authoring import compare
    from reproduce.spec import load_experiment

    comparison = compare(load_experiment(arguments.first), load_experiment(arguments.second))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(comparison), indent=1))
    else:
        print("\n".join(_sentences(comparison, arguments.first, arguments.second)))
    return DONE


def _sentences(comparison: Comparison, first: str, second: str) -> list[str]:
    lines = [f"{item.field}: {_text(item.first)} -> {_text(item.second)}" for item in comparison.fields]
    lines += [f"arm {name} is in {first} alone" for name in comparison.only_first]
    lines += [f"arm {name} is in {second} alone" for name in comparison.only_second]
    lines += [f"arm {one} of {first} is {other} of {second}" for one, other in comparison.renamed]
    if not lines:
        lines = ["The two experiments ask for the same runs in the same way."]
    shared, (one, other) = len(comparison.shared), comparison.runs
    lines.append(
        f"{shared} of the {one} runs of {first} and the {other} runs of {second} are the same and are trained once."
        if shared
        else f"None of the {one} runs of {first} is among the {other} runs of {second}."
    )
    return lines


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _schema(arguments: argparse.Namespace) -> int:
    from reproduce.authoring import experiment_schema

    print(json.dumps(experiment_schema(), indent=1))
    return DONE
