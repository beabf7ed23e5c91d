"""Implements `deeper new`, `deeper diff` and `deeper schema`, which help to write experiment files."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console.exit_codes import DONE
from bench.console.options import Subparsers, add_command, add_json, output_file
from bench.console.output import print_result
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


def add_to(subparsers: Subparsers) -> None:
    """Add `deeper new`, `deeper diff` and `deeper schema` to the command line."""
    help = "Write an experiment file of your own, with a comment for every field."
    new = add_command(subparsers, None, "new", _new, help, examples=NEW_EXAMPLES)
    new.add_argument("name", help="The name of the new experiment.")
    new.add_argument(
        "--from",
        dest="source",
        metavar="EXPERIMENT",
        default="quickstart",
        help="The experiment to start from: a file, or a name that `deeper experiments` lists. Default: quickstart.",
    )
    new.add_argument(
        "--output", type=output_file, metavar="FILE", help="The file to write. Default: NAME.yaml in this folder."
    )

    help = "Show what differs between two experiments, and which runs they share."
    diff = add_command(subparsers, None, "diff", _diff, help, examples=DIFF_EXAMPLES)
    for name in ("first", "second"):
        diff.add_argument(name, help="A file (*.yaml), or a name that `deeper experiments` lists.")
    add_json(diff)

    help = "Print the JSON Schema of experiment files, with which editors complete fields and mark mistakes."
    schema = add_command(subparsers, None, "schema", _schema, help, examples=SCHEMA_EXAMPLES)
    schema.add_argument("kind", choices=["experiment"], help="The kind of file.")


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
    print(f"{path} is written. Edit it, then: deeper plan {shlex.quote(str(path))}")
    return DONE


def _diff(arguments: argparse.Namespace) -> int:
    from reproduce.authoring import compare
    from reproduce.spec import load_experiment

    comparison = compare(load_experiment(arguments.first), load_experiment(arguments.second))
    sentences = _sentences(comparison, arguments.first, arguments.second)
    print_result(arguments, dataclasses.asdict(comparison), lambda: print("\n".join(sentences)))
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
