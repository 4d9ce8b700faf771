"""Can this machine compute on its GPU? If not: what is missing, and the command that brings it.

``cupy.cuda.is_available()`` says yes where the CUDA headers or cuBLAS are missing, and the first
kernel fails. So a device is tried out when it is asked for: one kernel and one matrix product, once
in a process (:func:`tinygrad_mha.backend.ready`). CuPy comes in as an argument; only
:mod:`tinygrad_mha.backend` imports it.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from functools import partial
from types import ModuleType
from typing import Any

from .backend import DeviceError, OutOfDeviceMemory

# cudaError_t
MEMORY_ALLOCATION, INSUFFICIENT_DRIVER, NO_DEVICE, DRIVER_MISMATCH = 2, 35, 100, 803

UPDATE = "on Ubuntu: sudo ubuntu-drivers install, then restart; else from nvidia.com/drivers"


def fault(device: str, problem: str, cure: str) -> DeviceError:
    """The error for a device that cannot be used: one line, with the remedy at its end.

    >>> fault("cuda:0", "CuPy is not installed", "pip install 'tinygrad_mha[cuda12]'")
    DeviceError("device 'cuda:0': CuPy is not installed; pip install 'tinygrad_mha[cuda12]'")
    """
    return DeviceError(f"device {device!r}: {problem}; {cure}")


# ------------------------------------------------------------------------- what is installed


def cupy_packages() -> list[str]:
    """The installed packages that bring a module ``cupy``; more than one overwrite each other."""
    names = {(d.metadata["Name"] or "").lower() for d in importlib.metadata.distributions()}
    return sorted(n for n in names if n == "cupy" or n.startswith(("cupy-cuda", "cupy-rocm")))


def driver_cuda() -> int:
    """The newest CUDA that the NVIDIA driver knows, as 12040 for 12.4; 0 where there is no driver.

    It asks the driver itself, so that it can answer without CuPy.
    """
    import ctypes

    version = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        driver.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return version.value


def named(version: int) -> str:
    """CUDA's own way to write a version, for people.

    >>> named(12040)
    '12.4'
    """
    return f"{version // 1000}.{version % 1000 // 10}"


def install(driver: int) -> str:
    """The command that installs the CuPy that suits a driver."""
    return f"pip install 'tinygrad_mha[{'cuda13' if driver >= 13000 else 'cuda12'}]'"


def check_packages(device: str) -> None:
    """A DeviceError if several CuPy packages are installed; asked before CuPy is imported."""
    packages = cupy_packages()
    if len(packages) > 1:
        raise fault(
            device,
            f"the CuPy packages {' and '.join(packages)} overwrite each other",
            f"pip uninstall -y {' '.join(packages)} && {install(driver_cuda())}",
        )


def not_imported(error: Exception, device: str) -> DeviceError:
    """What to say when ``import cupy`` has failed."""
    packages, driver = cupy_packages(), driver_cuda()
    if packages:
        return fault(
            device,
            f"{packages[0]} is installed but cannot be imported ({first_line(error)})",
            f"pip install --force-reinstall '{with_toolkit(packages[0])}'",
        )
    cure = install(driver)
    if not driver:
        cure += ", or [cuda13] for a driver of CUDA 13 (there is no NVIDIA driver here yet)"
    return fault(device, "CuPy is not installed", cure)


def with_toolkit(package: str) -> str:
    """The requirement that brings headers, NVRTC and cuBLAS to a CuPy wheel."""
    return f"{package}[ctk]"


def first_line(error: BaseException) -> str:
    """The first words of an error of CuPy's, whose texts run over many lines."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")
    return text if len(text) <= 200 else text[:199] + "…"


# --------------------------------------------------------------------------- what works


def check(cp: ModuleType, device: str) -> None:
    """Try the device out; a DeviceError says what is wrong, and the command that cures it."""
    number, count = int(device[5:]), count_devices(cp, device)
    if number >= count:
        problem = f"there is no GPU {number}, only {count}, counted from 0"
        if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
            problem += f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        last = f"cuda:{count - 1}"
        raise fault(device, problem, f"write {last!r}" + (" or less" if count > 1 else ""))
    try:
        with cp.cuda.Device(number):
            a = small_kernel(cp)
    except Exception as e:
        raise kernel_failed(cp, e, device) from e
    try:
        with cp.cuda.Device(number):
            right = bool((a @ a == cp.asarray([[7.0, 10.0], [15.0, 22.0]])).all())
    except Exception as e:
        raise product_failed(cp, e, device) from e
    if not right:
        raise fault(device, "a small matrix product is wrong", reinstall())


def small_kernel(cp: ModuleType) -> Any:
    """[[1, 2], [3, 4]], computed on the device (which takes the headers and NVRTC), and done."""
    a = (cp.arange(4, dtype="f4") + 1.0).reshape(2, 2)
    cp.cuda.Device().synchronize()  # an error of a kernel comes to light when it is waited for
    return a


def count_devices(cp: ModuleType, device: str) -> int:
    """How many GPUs CUDA shows; a DeviceError if it shows none, or does not start."""
    runtime = cp.cuda.runtime
    driver = 0
    status: int | None = NO_DEVICE
    try:
        driver = runtime.driverGetVersion()
        if count := runtime.getDeviceCount():
            return count
        error: Exception = RuntimeError("no device")
    except Exception as e:
        error, status = e, getattr(e, "status", None)
    say = partial(fault, device)
    if status == INSUFFICIENT_DRIVER and not driver:
        raise say(
            "there is no NVIDIA driver here, or this container does not see it",
            "install it (on Ubuntu: sudo ubuntu-drivers install, then restart) or start the "
            "container with: docker run --gpus all; then nvidia-smi shows the GPU",
        ) from error
    if status == INSUFFICIENT_DRIVER:
        raise driver_too_old(cp, driver, device) from error
    if status == NO_DEVICE:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            cure = "unset CUDA_VISIBLE_DEVICES, or set it to a GPU that nvidia-smi -L lists"
            raise say(
                f"no GPU is visible, CUDA_VISIBLE_DEVICES is {visible!r}",
                cure,
            ) from error
        raise say(
            "there is a driver, but no GPU is visible",
            "see what nvidia-smi -L lists; a container has to be started with: "
            "docker run --gpus all",
        ) from error
    if status == DRIVER_MISMATCH:
        raise say("the NVIDIA driver was updated while it ran", "sudo reboot") from error
    raise say(
        f"CUDA does not start ({first_line(error)})", "see whether nvidia-smi works; restart"
    ) from error


def driver_too_old(cp: ModuleType, driver: int, device: str) -> DeviceError:
    """The wheel needs a newer driver; or this driver an older wheel, where there is one."""
    package = installed_package()
    needs = cuda_of(cp, package)
    problem = f"the driver knows CUDA {named(driver)}, {package} needs CUDA {needs}"
    update = f"update the driver ({UPDATE})"
    if 12000 <= driver < 13000 <= needs * 1000:
        return fault(
            device, problem, f"pip uninstall -y {package} && {install(driver)}; or {update}"
        )
    return fault(device, problem, update)


def installed_package() -> str:
    """The package that CuPy comes from, or what it should be called."""
    packages = cupy_packages()
    return packages[0] if packages else "cupy"


def cuda_of(cp: ModuleType, package: str) -> int:
    """The major version of CUDA that a CuPy is made for."""
    if digits := re.search(r"cuda(\d\d)x", package):
        return int(digits[1])
    return cp.cuda.runtime.runtimeGetVersion() // 1000


def reinstall() -> str:
    """The command that brings the CUDA libraries that CuPy misses."""
    package = installed_package()
    if package == "cupy":  # built from source, or conda's: the toolkit comes from elsewhere
        return "install the CUDA toolkit (conda install -c conda-forge cuda-toolkit), set CUDA_PATH"
    return f"pip install '{with_toolkit(package)}'"


def kernel_failed(cp: ModuleType, error: Exception, device: str) -> DeviceError:
    """Why the first kernel did not run."""
    text, kind = str(error), type(error).__name__
    if "CUDA headers" in text or "cuda_fp16.h" in text:
        return fault(device, "CuPy finds no CUDA headers", reinstall())
    if "nvrtc" in text.lower() and (kind.startswith("DynamicLib") or isinstance(error, OSError)):
        return fault(device, "NVRTC, CUDA's compiler, is missing", reinstall())
    capability = capability_of(cp, device)
    if "gpu-architecture" in text and 0 < capability < 75:
        package = installed_package()
        return fault(
            device,
            f"compute capability {capability / 10} is too old for {package}",
            f"pip uninstall -y {package} && {install(12000)}",
        )
    if kind == "CompileException":
        return fault(
            device,
            f"a small kernel does not compile ({first_line(error)}): "
            "CUDA's headers and its compiler may be of different versions",
            f"unset CUDA_PATH; {reinstall()}",
        )
    return other_failure(cp, error, device, "a small kernel")


def capability_of(cp: ModuleType, device: str) -> int:
    """A GPU's compute capability, as 75 for 7.5; 0 if it cannot be asked."""
    try:
        return int(cp.cuda.Device(int(device[5:])).compute_capability)
    except Exception:  # it is asked while something else is already wrong
        return 0


def product_failed(cp: ModuleType, error: Exception, device: str) -> DeviceError:
    """Why the first matrix product did not work."""
    text, kind = str(error), type(error).__name__
    if "cublas" in text.lower() and (
        isinstance(error, ImportError | OSError) or kind.startswith("DynamicLib")
    ):
        return fault(device, "cuBLAS, CUDA's matrix products, is missing", reinstall())
    return other_failure(cp, error, device, "a small matrix product")


def other_failure(cp: ModuleType, error: Exception, device: str, what: str) -> DeviceError:
    """Anything else: a GPU whose memory others hold, or something we have not met."""
    if is_out_of_memory(error) or "CUBLAS_STATUS_NOT_INITIALIZED" in str(error):
        return OutOfDeviceMemory(
            f"device {device!r}: out of memory at the first computation{sizes(cp, error)}; "
            "nvidia-smi shows which other program holds it"
        )
    if isinstance(error, ImportError) or type(error).__name__.startswith("DynamicLib"):
        return fault(device, f"a library is missing ({first_line(error)})", reinstall())
    return fault(
        device,
        f"{what} failed ({type(error).__name__}: {first_line(error)})",
        "see whether nvidia-smi works; restart",
    )


# ------------------------------------------------------------------------------- memory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of CuPy's means that the GPU's memory is full."""
    kind = type(error)
    if not kind.__module__.startswith("cupy"):
        return False
    status = getattr(error, "status", None) if kind.__name__.startswith("CUDA") else None
    full = status == MEMORY_ALLOCATION or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)
    return isinstance(error, MemoryError) or full


def out_of_memory(cp: ModuleType, error: BaseException, where: str = "") -> OutOfDeviceMemory:
    """CuPy's error in our words: what was asked for, and what is free."""
    try:
        device = f"device 'cuda:{cp.cuda.Device().id}'"
    except Exception:  # CUDA answers no more questions
        device = "device 'cuda'"
    where = where and f" in {where}"
    return OutOfDeviceMemory(
        f"{device}: out of memory{where}{sizes(cp, error)}; take a smaller batch or model"
    )


def sizes(cp: ModuleType, error: BaseException) -> str:
    """What was asked for and what is free, as far as it is known, with a colon before it."""
    asked = re.search(r"allocating ([\d,]+) bytes", str(error))
    told = [f"{amount(int(asked[1].replace(',', '')))} asked for"] if asked else []
    try:
        free, total = cp.cuda.runtime.memGetInfo()
        told.append(f"{amount(free)} of {amount(total)} free")
    except Exception:  # the answer is not worth another error
        pass
    return ": " + ", ".join(told) if told else ""


def amount(size: float) -> str:
    """A number of bytes, for people.

    >>> amount(512), amount(3_400_000), amount(85_000_000_000)
    ('512 bytes', '3.4 MB', '85.0 GB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size:.0f} bytes"


# -------------------------------------------------------------------------------- facts


def facts(cp: ModuleType, device: str) -> dict[str, Any]:
    """What kind of GPU it is, and the versions between it and us."""
    runtime, number = cp.cuda.runtime, int(device[5:])
    with cp.cuda.Device(number):
        free, total = runtime.memGetInfo()
    about = runtime.getDeviceProperties(number)
    name = about["name"]
    return {
        "name": name.decode() if isinstance(name, bytes) else name,
        "compute_capability": f"{about['major']}.{about['minor']}",
        "memory_bytes": total,
        "memory_free_bytes": free,
        "driver": driver_name(),
        "driver_cuda": named(runtime.driverGetVersion()),
        "runtime_cuda": named(runtime.runtimeGetVersion()),
        "cupy": cp.__version__,
        "cupy_package": installed_package(),
    }


def driver_name() -> str | None:
    """The version of the NVIDIA driver as NVIDIA writes it, as "550.54.14"; None if unknown."""
    import subprocess

    try:  # Linux
        with open("/proc/driver/nvidia/version", encoding="utf-8", errors="replace") as file:
            told = file.readline()
    except OSError:
        question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            told = subprocess.run(question, capture_output=True, text=True, timeout=20).stdout
        except (OSError, subprocess.SubprocessError):
            return None
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", told)
    return found[0] if found else None
