"""Does NVIDIA's compiler take every kernel, for every generation of GPUs?

An emulator that compiles with g++ knows more words than NVRTC and has more shared memory, and a GPU
at hand is of one generation. NVRTC itself needs no GPU. It comes in wheels:

    pip install --no-deps nvidia-cuda-nvrtc-cu12    # 12.x: Volta (70) to Hopper (90)
    pip install --no-deps nvidia-cuda-nvrtc         # 13.x: Turing (75) to Blackwell (120)
    python -m tests.cuda.compile_kernels

Whichever of them is installed is asked. Exit status 1: something does not compile, or only with a
warning. Exit status 2: there is no NVRTC.
"""

import ctypes
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mha.kernels import attention, launch, lstm, optim

LIBRARIES = {  # where a wheel puts its library, and what that compiles for
    "nvidia/cuda_nvrtc/lib/libnvrtc.so.12": (70, 75, 80, 86, 89, 90),
    "nvidia/cu13/lib/libnvrtc.so.13": (75, 80, 86, 89, 90, 100, 120),
}
WIDEST = attention.WIDEST_BYTES
# The constants of a file, by the size of a number: some for every generation, and the extremes for
# the last one only, since their loops are long and the compiler's work with them.
USUAL: dict[str, Any] = {
    "attention.cu": lambda size: [{"WIDTH": 16, "WIDTH_V": 16}],
    "lstm.cu": lambda size: [{"ROWS": 2, "THREADS": 128, "KEEP": lstm.KEPT[128] * 4 // size}],
    "optim.cu": lambda size: [{"COUNT": optim.COUNT}],
}
EXTREME: dict[str, Any] = {
    "attention.cu": lambda size: [
        {"WIDTH": 1, "WIDTH_V": 3},
        {"WIDTH": WIDEST // size, "WIDTH_V": WIDEST // size},
    ],
    "lstm.cu": lambda size: [
        {"ROWS": rows, "THREADS": threads, "KEEP": lstm.KEPT[threads] * 4 // size}
        for rows, threads in ((8, 512), (1, 1024))
    ],
}


class Job(NamedTuple):
    """One file, with its constants, for one generation of GPUs."""

    library: str
    architecture: int
    file: str
    dtype: np.dtype
    constants: dict[str, int]

    def options(self) -> list[str]:
        told = launch.options(self.dtype, tuple(self.constants.items()))
        return [f"-arch=sm_{self.architecture}", *told]


def jobs(library: str, architectures: tuple[int, ...]) -> list[Job]:
    """The long ones first."""
    files = sorted(f.name for f in Path(launch.__file__).parent.glob("*.cu"))
    made = []
    for table, those in ((EXTREME, architectures[-1:]), (USUAL, architectures)):
        none = (lambda size: [{}]) if table is USUAL else (lambda size: [])
        for file in files:
            for dtype in launch.REAL:
                for constants in table.get(file, none)(dtype.itemsize):
                    made += [Job(library, a, file, dtype, constants) for a in those]
    return made


def compiled(job: Job) -> tuple[bool, str]:
    """Whether it is, and what the compiler says."""
    nvrtc, program = ctypes.CDLL(job.library), ctypes.c_void_p()
    text = launch.source(job.file).encode()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, job.file.encode(), 0, None, None)
    options = [option.encode() for option in job.options()]
    array = (ctypes.c_char_p * len(options))(*options)
    status = nvrtc.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    lines = log.value.decode(errors="replace").splitlines()
    told = [line for line in lines if "Architectures prior to" not in line]  # 12.9 on Volta
    return status == 0, "\n".join(told).strip()


def version(library: str) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    ctypes.CDLL(library).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def main() -> int:
    found = {
        str(path): those
        for name, those in LIBRARIES.items()
        for path in (Path(folder) / name for folder in sys.path)
        if path.is_file()
    }
    if not found:
        print("no NVRTC: pip install --no-deps nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvrtc")
        return 2
    begun, bad = time.monotonic(), 0
    for library, those in found.items():
        work = jobs(library, those)
        with ProcessPoolExecutor(2) as pool:
            answers = list(pool.map(compiled, work))
        for job, (good, log) in zip(work, answers, strict=True):
            if not good or log:
                outcome = "warns" if good else "FAILS"
                print(f"{outcome}: {job.file} {' '.join(job.options())}\n{log}\n")
        failures = sum(not good or bool(log) for good, log in answers)
        bad += failures
        names = " ".join(f"sm_{a}" for a in those)
        print(f"NVRTC {version(library)}: {len(work) - failures} of {len(work)} for {names}")
    print(f"{time.monotonic() - begun:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
