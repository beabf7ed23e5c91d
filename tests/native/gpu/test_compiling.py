"""The kernels in Triton become machine code for an H100, which needs no GPU: no other test sees Triton's compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from reproduce.native.gpu import normalisation, pooling, sums  # noqa: E402

H100 = GPUTarget("cuda", 90, 32)
TILE = {"PIXELS": 16, "CHANNELS": 64, "PARTS": 128, "TRAINING": True, "KEEP_TAPS": True, "COUNT": 4}
WINDOW = {"KERNEL": 3, "STRIDE": 1, "PADDING": 1}
STEPS = ("grad_step", "y_step", "one_step", "two_step", "three_step", "four_step")
NUMBERS = ("pixels", "channels", "height", "width", "out_height", "out_width", "per_part", "parts", "size", *STEPS)
ALIGNED = ("channels", *STEPS)  # in the network nearly all are multiples of 16, which Triton then knows
TYPES = {"taps": "*u8", "momentum": "fp32", "eps": "fp32", **dict.fromkeys(NUMBERS, "i32")}
MAPS = ("x", "y", "grad_x", "grad_y", "one", "two", "three", "four", "total")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize(
    "kernel",
    [
        pooling._pool,
        pooling._pool_backward,
        normalisation._sums,
        normalisation._statistics,
        normalisation._transform,
        normalisation._gradient_sums,
        normalisation._parameter_gradients,
        normalisation._gradient,
        sums._sum,
    ],
    ids=lambda kernel: kernel.__name__,
)
@pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp32", marks=pytest.mark.long)])
def test_a_kernel_compiles_for_an_h100_and_reads_maps_16_bytes_at_a_time(kernel: Any, dtype: str) -> None:
    names = kernel.arg_names
    constants = {name: value for name, value in {**TILE, **WINDOW}.items() if name in names}
    types = dict.fromkeys(names, "*fp32") | dict.fromkeys(MAPS, f"*{dtype}") | TYPES
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    pointers = [name for name in names if signature[name].startswith("*")]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in names if name in (*pointers, *ALIGNED)},
    )
    compiled = triton.compile(source, target=H100)
    assert compiled.asm["cubin"]
    loads = [line for line in compiled.asm["ptx"].splitlines() if "ld.global" in line]
    wide = [line for line in loads if ".v4.b32" in line]
    assert wide
    assert len(wide) >= len(loads) // 2, "the rest are taps of a byte and numbers of a channel"
