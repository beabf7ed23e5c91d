"""`deeper run --prepare`: data are prepared with the options that their experiment names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.commands.run import prepare_missing
from reproduce.data import load_manifest
from reproduce.spec import DataConfig, SpecError


def test_missing_data_are_prepared_with_the_named_options(tmp_path: Path) -> None:
    prepare_missing([DataConfig(path="small", source="synthetic", max_resolution=32, write_mode="raw")], tmp_path)
    options = load_manifest(tmp_path / "small").options
    assert (options.max_resolution, options.write_mode, options.jpeg_quality) == (32, "raw", 90)


def test_data_without_a_source_are_answered_with_the_command_and_its_options(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"type: deeper data prepare SOURCE --output .*/small --max-resolution 32$"):
        prepare_missing([DataConfig(path="small", max_resolution=32)], tmp_path)
