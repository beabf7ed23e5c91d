"""Build the decoder's fuzz target, make its seeds, and run it for some minutes; `make fuzz` calls it.

Needs clang with libFuzzer (Debian: apt-get install clang-14 libclang-rt-14-dev) and libjpeg-turbo's header.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CONTROL = 8  # bytes behind the JPEG that choose the crop; as in decoder.c
FLAGS = ("-g", "-O1", "-std=gnu11", "-ffp-contract=off", "-fno-omit-frame-pointer")
SANITIZE = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "fuzz", help="corpus, program and finds")
    arguments = parser.parse_args()
    clang = os.environ.get("CLANG") or next(filter(None, map(shutil.which, ("clang", "clang-14"))), None)
    if clang is None:
        print("make fuzz: no clang; apt-get install clang-14 libclang-rt-14-dev, or name one: CLANG=...")
        return 2
    corpus, program = arguments.folder / "corpus", arguments.folder / "decoder"
    corpus.mkdir(parents=True, exist_ok=True)
    write_seeds(corpus)
    sources = [HERE / "decoder.c", *(ROOT / "reproduce" / "native" / name for name in ("crop.c", "restart.c"))]
    include = f"-I{ROOT / 'reproduce' / 'native'}"
    subprocess.run(
        [clang, *FLAGS, *SANITIZE, include, *sources, "-o", program, "-ljpeg", "-lm", "-pthread"], check=True
    )
    print(
        f"fuzzing the decoder on one core for {arguments.minutes:g} minutes; finds go to {arguments.folder}", flush=True
    )
    limits = (f"-max_total_time={60 * arguments.minutes:.0f}", "-timeout=20", "-max_len=16384", "-rss_limit_mb=2048")
    command = [program.resolve(), corpus.resolve(), *limits, "-print_final_stats=1", "-artifact_prefix=find-"]
    return subprocess.run(["nice", "-n", "19", *command], cwd=arguments.folder).returncode


def write_seeds(folder: Path) -> None:
    """Write JPEGs of all kinds that `sanitized.py` makes, each with a crop that is drawn at random."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "native")]
    from sanitized import jpegs

    random = np.random.default_rng(0)
    for number, (content, _) in enumerate(jpegs(random)):
        (folder / f"seed-{number:03}").write_bytes(content + random.bytes(CONTROL))


if __name__ == "__main__":
    sys.exit(main())
