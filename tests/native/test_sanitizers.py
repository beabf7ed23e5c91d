"""The C code under AddressSanitizer and UndefinedBehaviorSanitizer, over valid and damaged input.

The libraries are built as ever, by a compiler whose command asks for the sanitizers; the runtime of AddressSanitizer is
loaded before Python, whose allocations it then watches.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g")


@pytest.fixture
def sanitizers(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that builds and runs the libraries under the sanitizers."""
    compiler = [*shlex.split(os.environ.get("CC", "cc")), *SANITIZE]
    source = tmp_path / "empty.c"
    source.write_text("int main(void) { return 0; }\n", encoding="utf-8")
    try:
        subprocess.run([*compiler, str(source), "-o", str(tmp_path / "empty")], check=True, capture_output=True)
        subprocess.run([str(tmp_path / "empty")], check=True, capture_output=True)
        found = subprocess.check_output([*compiler, "-print-file-name=libasan.so"], text=True, encoding="utf-8").strip()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the C compiler has no sanitizers: {error}")
    if not Path(found).is_file() or Path(found).read_bytes()[:4] != b"\x7fELF":
        pytest.skip(f"{compiler[0]} has no libasan.so that can be loaded before Python")
    return {
        **os.environ,
        "CC": shlex.join(compiler),
        "XDG_CACHE_HOME": str(tmp_path),
        "DEEPER_DECODER": "native",
        "DEEPER_KERNELS": "native",
        "LD_PRELOAD": found,
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own are many
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


@pytest.mark.parametrize("arguments", [("sanitized.py", "300"), ("sanitized_kernels.py",)], ids=["decoder", "kernels"])
def test_no_input_makes_the_c_code_leave_its_memory(sanitizers: dict[str, str], arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / arguments[0]), *arguments[1:]],
        env=sanitizers,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "done"


def test_a_read_beyond_an_image_would_be_found(sanitizers: dict[str, str]) -> None:
    code = (
        "import numpy as np; from reproduce.data.loading import cropping; from sanitized import crop; "
        "library = cropping._library(); whole = library.crop_batch; "
        "library.crop_batch = lambda content, size, *rest: whole(content, size + 64, *rest); "
        "crop(bytes(300), (10, 10), np.array([[0, 0, 10, 10, 0]]), 8, is_jpeg=False, sizes=300, offsets=3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**sanitizers, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
