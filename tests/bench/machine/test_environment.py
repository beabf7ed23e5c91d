"""What is recorded of the machine and the packages."""

from __future__ import annotations

import os
from importlib import metadata

import pytest

from bench.machine import environment as module
from bench.machine.environment import environment


def test_the_environment_names_machine_and_packages() -> None:
    found = environment()
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["gpus"] or found["gpu_absent"]
    packages = found["packages"]
    assert {"torch", "pillow", "scipy"} <= set(packages)
    assert any(name.startswith("opencv-") for name in packages), "OpenCV is recorded as the distribution it came in"


def test_a_package_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "opencv-contrib-python":
            return "5.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert module._packages() == {"opencv-contrib-python": "5.0"}
