"""A CuPy that fails as CuPy 14 does on a machine with the fault that $FAULT names.

For tests of what the device flag says: put this folder on sys.path, and `import cupy` finds it. It
can do what the flag tries first, one kernel and one product, and no more. The statuses, classes
and texts are those of CuPy 14.2.
"""

import os
from types import SimpleNamespace

FAULT = os.environ.get("FAULT", "")
DRIVER = int(os.environ.get("FAULT_DRIVER", "12090"))
__version__ = "14.2.0"

if FAULT == "broken":
    raise ImportError("numpy.core.multiarray failed to import\n(many more lines)")


class CUDARuntimeError(RuntimeError):
    __module__ = "cupy_backends.cuda.api.runtime"

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class CUBLASError(RuntimeError):
    __module__ = "cupy_backends.cuda.libs.cublas"


class OutOfMemoryError(MemoryError):
    __module__ = "cupy.cuda.memory"


class DynamicLibNotFoundError(RuntimeError):
    __module__ = "cuda.pathfinder"


class CompileException(Exception):
    __module__ = "cupy.cuda.compiler"


STARTS = {  # what the first question to the runtime answers
    "no-driver": (35, "cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
    "old-driver": (35, "cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
    "no-device": (100, "cudaErrorNoDevice: no CUDA-capable device is detected"),
    "mismatch": (803, "cudaErrorSystemDriverMismatch: system has unsupported display driver"),
    "unknown": (999, "cudaErrorUnknown: unknown error"),
}
FULL = "Out of memory allocating 2,097,152 bytes (allocated so far: 0 bytes)."
KERNEL = {
    "no-headers": RuntimeError("Failed to find CUDA headers. Please install\nthem\n"),
    "no-nvrtc": DynamicLibNotFoundError('Failure finding "libnvrtc.so": No such file: …'),
    "old-gpu": CompileException("nvrtc: error: invalid value for --gpu-architecture (-arch)\n"),
    "compile": CompileException("/usr/include/cuda_runtime.h(3): error: expected a ;"),
    "full": OutOfMemoryError(FULL),
    "context": CUDARuntimeError(2, "cudaErrorMemoryAllocation: out of memory"),
    "strange": CUDARuntimeError(719, "cudaErrorLaunchFailure: unspecified launch failure"),
}
PRODUCT = {
    "no-cublas": ImportError('Failure finding "libcublas.so": No such file: libcublas.so*'),
    "cublas-full": CUBLASError("CUBLAS_STATUS_NOT_INITIALIZED"),
    "no-other-library": ImportError("libcusomething.so.12: cannot open shared object file"),
    "strange-product": ValueError("something else"),
}


def getDeviceCount():
    if FAULT in STARTS:
        raise CUDARuntimeError(*STARTS[FAULT])
    return int(os.environ.get("FAULT_DEVICES", "1"))


class Device:
    compute_capability = "61" if FAULT == "old-gpu" else "80"

    def __init__(self, number=0):
        self.id = number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def use(self):
        pass

    def synchronize(self):
        if FAULT in KERNEL:
            raise KERNEL[FAULT]


class ndarray:
    def __init__(self, right=True):
        self.right = right

    def __add__(self, other):
        return self

    def reshape(self, *shape):
        return self

    def __matmul__(self, other):
        if FAULT in PRODUCT:
            raise PRODUCT[FAULT]
        return self

    def __eq__(self, other):
        return ndarray(FAULT != "wrong")

    def all(self):
        return self.right


def arange(n, dtype):
    return ndarray()


def asarray(x):
    return ndarray()


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=getDeviceCount,
    driverGetVersion=lambda: DRIVER,
    runtimeGetVersion=lambda: 12090,
    memGetInfo=lambda: (1 << 20, 8_000_000_000),
)
cuda = SimpleNamespace(runtime=runtime, Device=Device)
