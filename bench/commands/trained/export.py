"""Implements `deeper export`, which writes the trained network of a run as a file for other programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.commands.trained.run import add_run, find_run, load_run
from bench.console.exit_codes import DONE
from bench.console.options import Subparsers, add_command, output_file
from bench.console.output import plain_console, show, writing
from reproduce.errors import UserError

EXAMPLES = """examples:
  deeper export ablation-imagenette:reduced-both:0 --format onnx --output googlenet.onnx
  deeper export 4fc8fd0aa446 --format torchvision --output googlenet.pt      # and googlenet.pt.json
  deeper export 4fc8fd0aa446 --format safetensors --heads --output googlenet.safetensors

The weights are those that were validated, averaged ones if the recipe averages, in float32. Each file holds classes,
normalisation, resolution, crop, key, accuracy and commit; that of torchvision's layout has them in FILE.json beside it.
"""


def add_to(subparsers: Subparsers, places: argparse.ArgumentParser) -> None:
    """Add `deeper export` to the command line."""
    help = "Write the trained network of a run for torchvision, onnxruntime or any program that reads safetensors."
    parser = add_command(subparsers, places, "export", _export, help, examples=EXAMPLES)
    add_run(parser)
    parser.add_argument(
        "--format",
        required=True,
        metavar="FORMAT",
        help="torchvision: a state dict. onnx: a graph with a batch of any size. safetensors: a state dict without "
        "pickle.",
    )
    parser.add_argument("--output", required=True, type=output_file, metavar="FILE", help="Write this file, a new one.")
    parser.add_argument("--heads", action="store_true", help="Include the auxiliary classifiers.")


def _export(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    if output.exists():
        raise UserError(f"--output: {output} exists; name another file, or move this one away")
    found = find_run(arguments)

    from reproduce.export.formats import beside, described, encode, require
    from reproduce.export.layouts import differences, loads_in, with_heads
    from reproduce.files.atomic import write_atomically

    require(arguments.format)
    note = beside(arguments.format, output)
    if note is not None and note.exists():
        raise UserError(f"--output: {note}, which would describe {output.name}, exists; name another file")
    run = load_run(arguments, found)
    if arguments.heads and run.weights.network.config.aux == "none":
        raise UserError(f"--heads: {run.label} has no auxiliary classifiers; leave the option out")
    network = with_heads(run.weights.network, heads=arguments.heads)
    description = described(arguments.format, network, run.description.as_dict(network))
    content = encode(arguments.format, network, description)
    with writing("--output", output):
        output.parent.mkdir(parents=True, exist_ok=True)
        if note is not None:
            write_atomically(note, (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode())
        write_atomically(output, content)

    console = plain_console()
    files = str(output) if note is None else f"{output} and {note.name}"
    show(console, f"{files}: {run.summary}, {len(content) / 2**20:.1f} MiB")
    if arguments.format == "torchvision":
        differing = differences(network)
        if differing:
            show(console, f"torchvision's googlenet does not load it as it is: {'; '.join(differing)}", style="yellow")
        show(console, f"load it: {loads_in(network)}")
    return DONE
