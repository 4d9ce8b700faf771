"""Where arrays live. This is the only file that imports CuPy; everything else asks ``xp(x)``.

CuPy is imported when a device is asked for by name and never before: ``import tinygrad_mha`` on a
laptop without a GPU imports NumPy and nothing else. The first time, the device is tried out (see
device_check.py): it works, or a DeviceError says why not and what to do. Nothing falls back to the
CPU by itself.
"""

from __future__ import annotations

import os
import sys
import warnings
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: the code is the same for both
ARRAYS: set[type] = {np.ndarray}  # the types that it stands for, as far as they are imported


class DeviceError(RuntimeError):
    """The device that was asked for cannot be used; the message says what to do about it."""


class OutOfDeviceMemory(DeviceError, MemoryError):
    """The memory of a GPU is full; the message says what was asked for and what was free."""


def xp(x: Any) -> ModuleType:
    """The module that computes on ``x``: numpy, or cupy for an array that lives on a GPU.

    >>> import numpy as np
    >>> xp(np.ones(3)).__name__
    'numpy'
    """
    return sys.modules["cupy"] if type(x).__module__.startswith("cupy") else np


def is_array(x: Any) -> bool:
    """True for a NumPy or a CuPy array (not for a Tensor, a number or a list)."""
    return isinstance(x, np.ndarray) or type(x).__module__.startswith("cupy")


def device_of(x: Any) -> str:
    """The name of the device that holds array ``x``: ``"cpu"`` or ``"cuda:0"``, ``"cuda:1"``, …"""
    return "cpu" if xp(x) is np else f"cuda:{x.device.id}"


def to_host(x: Any) -> np.ndarray:
    """``x`` as a NumPy array; a copy only if it has to cross from the GPU."""
    return np.asarray(x) if xp(x) is np else sys.modules["cupy"].asnumpy(x)


def to_device(x: Array, device: str) -> Array:
    """``x`` on ``device``; ``x`` itself if it is there already."""
    device = check_device(device)
    if device_of(x) == device:
        return x
    if device == "cpu":
        return to_host(x)
    cupy = ready(device)
    cupy.cuda.Device(int(device[5:])).use()  # CuPy computes on the current one
    try:
        return cupy.asarray(x)
    except MemoryError as e:
        raise explained(e)  # noqa: B904  # it names its cause


def place_like(host: np.ndarray, x: Array) -> Array:
    """A host array (ids, masks, random bits) beside ``x``: uploaded if ``x`` is on a GPU."""
    return host if xp(x) is np else xp(x).asarray(host)


def placed(x: Array, *hosts: np.ndarray) -> list[Array]:
    """Host arrays (ids, lengths, masks) beside ``x``, in one copy, and for reading only.

    What was sent lately is not sent again: the lengths of a batch serve every layer.
    """
    if xp(x) is np:
        return list(hosts)
    device = x.device.id
    keys = [(device, h.dtype.str, h.shape, h.tobytes()) for h in hosts]
    found = [_sent.get(key) for key in keys]
    missing = [k for k, there in enumerate(found) if there is None]
    if missing:
        sizes = [-(-hosts[k].nbytes // 16) * 16 for k in missing]  # a GPU reads 16 bytes at once
        pieces = (keys[k][3].ljust(n, b"\0") for k, n in zip(missing, sizes, strict=True))
        packed = xp(x).asarray(np.frombuffer(b"".join(pieces) or b"\0", np.uint8))
        start = 0
        for k, size in zip(missing, sizes, strict=True):
            piece = packed[start : start + hosts[k].nbytes]
            found[k] = piece.view(hosts[k].dtype).reshape(hosts[k].shape)
            start += size
            if hosts[k].nbytes <= SMALL:
                _sent[keys[k]] = found[k]
        while len(_sent) > SENT_LATELY:
            _sent.pop(next(iter(_sent)), None)
    return found


SENT_LATELY, SMALL = 32, 1 << 18  # so many arrays are remembered, of so many bytes at most
_sent: dict[tuple, Array] = {}


def check_device(device: str) -> str:
    """The full name of a device: ``"cuda"`` means ``"cuda:0"``; anything unknown is an error.

    >>> check_device("cuda")
    'cuda:0'
    """
    name, colon, number = str(device).partition(":")
    if device == "cpu" or (name == "cuda" and (not colon or number.isdecimal())):
        return "cpu" if device == "cpu" else f"cuda:{int(number or 0)}"
    raise DeviceError(f"unknown device {device!r}: write 'cpu', 'cuda' or 'cuda:1'")


_ready: dict[str, ModuleType] = {}  # the devices that have computed something, and with which CuPy


def ready(device: str) -> ModuleType:
    """CuPy, once it has computed something on ``device``; else a DeviceError with the remedy.

    The first call for a device in a process tries it out; the others cost nothing.
    """
    cupy = _ready.get(device)
    if cupy is None or sys.modules.get("cupy") is not cupy:
        from .device_check import check

        cupy = import_cupy(device)
        check(cupy, device)
        _ready[device] = cupy
    return cupy


def import_cupy(device: str = "cuda:0") -> ModuleType:
    """CuPy, or a DeviceError that says how to get it."""
    from .device_check import check_packages, not_imported

    check_packages(device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it would warn of is told by device_check
            import cupy
    except Exception as e:
        raise not_imported(e, device) from e
    ARRAYS.add(cupy.ndarray)
    return cupy


def explained(error: BaseException, where: str = "") -> BaseException:
    """What to raise for ``error``: itself, or an OutOfDeviceMemory if a GPU's memory was full."""
    from .device_check import is_out_of_memory, out_of_memory

    if not is_out_of_memory(error):
        return error
    told = out_of_memory(sys.modules["cupy"], error, where)
    told.__cause__ = error
    return told


def held_bytes(device: str) -> int:
    """What CuPy holds of a GPU's memory: it gives nothing back, so this is the most it has used."""
    device = check_device(device)
    cupy = ready(device)
    with cupy.cuda.Device(int(device[5:])):
        return cupy.get_default_memory_pool().total_bytes()


def synchronize(device: str) -> None:
    """Wait until a device has computed all that it was asked for, as before looking at a clock."""
    if device != "cpu":
        ready(device).cuda.Device(int(device[5:])).synchronize()


def gpus() -> int:
    """How many GPUs this process sees, once it computes on one."""
    return sys.modules["cupy"].cuda.runtime.getDeviceCount()


def nccl(size: int, rank: int) -> Any:
    """What adds up arrays of ``size`` GPUs, each of another process; None where CuPy has no NCCL.

    All processes have to call it, on the device that each will use, and MPI brings them together.
    """
    try:
        from cupyx.distributed import NCCLBackend

        if not sys.modules["cupy"].cuda.nccl.available:
            return None
    except (ImportError, AttributeError):
        return None
    return NCCLBackend(size, rank, use_mpi=True)


_default_device: str | None = None


def set_default_device(device: str) -> None:
    """New Tensors and modules are made on ``device``: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    A GPU is tried out first; a DeviceError says what is missing, and the command that cures it.
    """
    global _default_device
    device = check_device(device)
    if device != "cpu":
        ready(device).cuda.Device(int(device[5:])).use()
    _default_device = device


def default_device() -> str:
    """What :func:`set_default_device` chose, else $TINYGRAD_MHA_DEVICE, else ``"cpu"``."""
    if _default_device is not None:
        return _default_device
    return check_device(os.environ.get("TINYGRAD_MHA_DEVICE") or "cpu")
