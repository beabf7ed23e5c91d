"""Changes to modules in all processes of a job, made by a `sitecustomize.py` in a folder of PYTHONPATH."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = """
import sys
from importlib.machinery import PathFinder


class Changing:
    def find_spec(self, name, path, target=None):
        if name != "{module}":
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            change(module)

        spec.loader.exec_module = execute_and_change
        return spec


sys.meta_path.insert(0, Changing())
"""


def write_change(folder: Path, module: str, change: str) -> None:
    """Let every Python that has a folder in PYTHONPATH change a module once that is imported.

    Args:
        folder: The folder, which exists.
        module: Full name of the module.
        change: Source of a function `change(module)`.
    """
    (folder / "sitecustomize.py").write_text(f"{change}\n{TEMPLATE.format(module=module)}", encoding="utf-8")
