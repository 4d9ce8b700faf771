"""How a kernel is compiled, once, and launched.

A ``.cu`` file of this folder is CUDA C without headers. It computes with ``number``, which is float
or double, and may have other constants: each choice of them is compiled when it is first used.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, xp

REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
CHECKED = False  # whether launches look at their arguments: the tests want it
SHARED_BYTES = 48 << 10  # of shared memory that a block may use on every GPU without asking

# TINYGRAD_MHA_KERNELS=0 leaves everything to CuPy's array operations: slower, and the same numbers
# to rounding.
ON = os.environ.get("TINYGRAD_MHA_KERNELS", "1") != "0"


def usable(x: Array) -> bool:
    """Whether kernels compute with ``x``: float32 or float64, on a GPU, and not switched off."""
    return ON and x.dtype in REAL and compiles(type(x).__module__)


@functools.cache
def compiles(module: str) -> bool:
    """Whether a module of arrays has a compiler: CuPy, but no double of it."""
    return hasattr(sys.modules[module.partition(".")[0]], "RawModule")


@functools.cache
def source(file: str) -> str:
    """A file of this folder with those that it includes: NVRTC gets one text, and no folder."""
    lines = Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines()
    included = (re.fullmatch(r'#include "(.+)"', line) for line in lines)
    return "\n".join(source(i[1]) if i else s for i, s in zip(included, lines, strict=True)) + "\n"


@functools.cache
def kernel(file: str, name: str, dtype: np.dtype, constants: tuple = ()) -> Any:
    """The function ``name`` of ``file``, compiled for a dtype and for these constants."""
    return module(file, dtype, constants).get_function(name)


@functools.cache
def module(file: str, dtype: np.dtype, constants: tuple) -> Any:
    return sys.modules["cupy"].RawModule(code=source(file), options=options(dtype, constants))


def options(dtype: np.dtype, constants: tuple) -> tuple[str, ...]:
    """What a compiler is told."""
    defined = ("REAL", REAL[dtype]), *constants
    return ("-std=c++17", *(f"-D{name}={x}" for name, x in defined))


def launch(
    file: str,
    name: str,
    like: Array,
    grid: Any,
    block: int,
    *args: Any,
    shared: int = 0,
    strides: bool = False,
    **constants: Any,
) -> None:
    """Run a kernel on the device of ``like``, whose dtype is its ``number``.

    Python's numbers become what a kernel takes: an int any integer, a float a ``number``, None a
    null pointer. Nobody waits for the end. Kernels read arrays as they lie, from end to end, unless
    they are told of ``strides``.
    """
    if CHECKED and not strides:
        gaps = [a.shape for a in args if hasattr(a, "flags") and not a.flags.c_contiguous]
        assert not gaps, f"{name}: arrays with gaps: {gaps}"
    f = kernel(file, name, like.dtype, tuple(constants.items()))
    real = like.dtype.type
    # Of an int a kernel reads as many bytes as it wants, from the lowest on.
    typed = [real(a) if type(a) is float else a for a in args]
    grid = grid if type(grid) is tuple else (grid,)
    device = like.device
    if device.id == sys.modules["cupy"].cuda.runtime.getDevice():
        start(f, grid, block, typed, shared)
    else:
        with device:
            start(f, grid, block, typed, shared)


def start(f: Any, grid: tuple, block: int, arguments: list, shared: int) -> None:
    """On the current device. How much shared memory a function may use is said to each device."""
    if shared > SHARED_BYTES and f.max_dynamic_shared_size_bytes < shared:
        f.max_dynamic_shared_size_bytes = shared
    f(grid, (block,), arguments, shared_mem=shared)


@functools.cache
def limit(device: int, name: str) -> int:
    """What a device says of itself, by CUDA's names: "MultiProcessorCount", …"""
    return sys.modules["cupy"].cuda.Device(device).attributes[name]


def dense(x: Array) -> Array:
    """x, or a copy of it in one piece."""
    return x if x.flags.c_contiguous else xp(x).ascontiguousarray(x)


def blocks(n: int, size: int) -> int:
    """How many blocks of ``size`` cover n: at least one."""
    return max(1, -(-n // size))
