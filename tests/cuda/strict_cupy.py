"""A stand-in for CuPy on NumPy, for machines without a GPU: at least as strict as CuPy.

    with strict_cupy.installed():          # `import cupy` gives the double
        x = cupy.asarray(host)
        with strict_cupy.forbid_sync():    # float(), .item(), if, x[mask] ... raise SyncError
            train_step()
        print(strict_cupy.stats)           # {'ops': ..., 'h2d': ..., 'd2h': ..., 'sync': ...}

It fails where CuPy fails (a NumPy operand, a name or keyword that CuPy lacks: cupy_api.json) and in
a few places where CuPy works but should not be asked to: repeated indices in an assignment,
``np.exp(device_array)``. It is a healthy machine with one GPU, and knows no kernels, streams or
memory; CuPy itself has the last word.
"""

import contextlib
import json
import pathlib
import sys
import types

import numpy as np

API = json.loads(pathlib.Path(__file__).with_name("cupy_api.json").read_text())


# ---------------------------------------------------------------- traffic and synchronisation


class SyncError(RuntimeError):
    """The host would wait for the GPU inside forbid_sync()."""


stats = {}
_sync_is_forbidden = False


def reset_stats():
    stats.update(ops=0, h2d=0, d2h=0, sync=0)


reset_stats()


@contextlib.contextmanager
def forbid_sync():
    global _sync_is_forbidden
    old, _sync_is_forbidden = _sync_is_forbidden, True
    try:
        yield
    finally:
        _sync_is_forbidden = old


def _sync(what, copies=0):
    stats["sync"] += 1
    stats["d2h"] += copies
    if _sync_is_forbidden:
        raise SyncError(f"{what} would wait for the GPU here")


# ---------------------------------------------------------------- in and out of NumPy

_SCALARS = (int, float, complex, bool, np.generic)


def _inner(x):
    """The NumPy value behind an argument; NumPy arrays themselves are refused, as CuPy does."""
    if isinstance(x, ndarray):
        return x._array
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {np.ndarray}")
    if isinstance(x, (list, tuple)):
        return type(x)(map(_inner, x))
    return x


def _inner_all(arguments, keywords):
    return [_inner(x) for x in arguments], {name: _inner(x) for name, x in keywords.items()}


def _outer(result):
    """Every array and NumPy scalar becomes an array of the double: reductions give 0-d arrays."""
    if isinstance(result, (np.ndarray, np.generic)):
        return ndarray(np.asarray(result))
    if isinstance(result, (tuple, list)):
        return (
            type(result)(map(_outer, result))
            if type(result) in (tuple, list)
            else tuple(map(_outer, result))
        )
    return result


def _call(f, arguments, keywords):
    stats["ops"] += 1
    inner, inner_keywords = _inner_all(arguments, keywords)
    result = f(*inner, **inner_keywords)
    out = keywords.get("out")
    if isinstance(out, ndarray):
        return out
    for x in arguments:  # as x.astype(x.dtype, copy=False) is x
        if isinstance(x, ndarray) and x._array is result:
            return x
    return _outer(result)


def _check_keywords(name, parameters, keywords):
    if parameters is None or any(kind == "VAR_KEYWORD" for _, kind in parameters):
        return
    known = {parameter for parameter, _ in parameters}
    for keyword in keywords:
        if keyword not in known:
            raise TypeError(
                f"cupy.{name}() got an unexpected keyword argument {keyword!r} "
                f"(cupy {API['version']} lacks it)"
            )


# ---------------------------------------------------------------- the array


def _binary(name):
    f = getattr(np.ndarray, name)

    def operator(self, other):
        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {np.ndarray}")
        if not isinstance(other, (ndarray, *_SCALARS)):
            return NotImplemented
        return _call(f, (self, other), {})

    return operator


def _in_place(name):
    f = getattr(np.ndarray, name)

    def operator(self, other):
        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {np.ndarray}")
        stats["ops"] += 1
        f(self._array, _inner(other))
        return self

    return operator


def _unary(name):
    f = getattr(np.ndarray, name)
    return lambda self: _call(f, (self,), {})


def _method(name):
    f = getattr(np.ndarray, name)
    parameters = API["cupy"].get(name, {}).get("params")  # the method takes what the function takes

    def method(self, *arguments, **keywords):
        _check_keywords("ndarray." + name, parameters, keywords)
        return _call(f, (self, *arguments), keywords)

    return method


def _property(name):
    return property(lambda self: getattr(self._array, name))


def _axes(keys):
    """How many axes an index uses up."""
    return sum(
        x.ndim if getattr(x, "dtype", None) == np.dtype(bool) else x is not None
        for x in keys
        if x is not Ellipsis
    )


class ndarray:
    __module__ = "cupy"  # by this name the engine knows a device array
    __slots__ = ("__weakref__", "_array")
    __array_ufunc__ = (
        None  # np.exp(x) and numpy_array + x fail; CuPy lets some np.f(x) pass silently
    )
    __hash__ = None

    def __init__(self, array):
        self._array = array

    dtype, ndim, size, nbytes, itemsize, strides, flags = map(
        _property, ("dtype", "ndim", "size", "nbytes", "itemsize", "strides", "flags")
    )
    base = property(lambda self: None if self._array.base is None else ndarray(self._array.base))
    device = property(lambda self: Device(0))
    T = property(lambda self: _outer(self._array.T))
    shape = property(
        lambda self: self._array.shape, lambda self, shape: setattr(self._array, "shape", shape)
    )

    # ---- to the host: by name only, and counted
    def __array__(self, *_, **__):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    def __array_function__(self, f, *_):
        raise TypeError(f"numpy.{f.__name__} called with a cupy array: use xp.{f.__name__}")

    def get(self):
        _sync(".get()", 1)
        return self._array.copy()

    def item(self, *index):
        _sync(".item()", 1)
        return self._array.item(*index)

    def tolist(self):
        _sync(".tolist()", 1)
        return self._array.tolist()

    def __float__(self):
        _sync("float()", 1)
        return float(self._array)

    def __int__(self):
        _sync("int()", 1)
        return int(self._array)

    def __complex__(self):
        _sync("complex()", 1)
        return complex(self._array)

    def __bool__(self):
        _sync("bool() or if", 1)
        return bool(self._array)

    def __format__(self, spec):
        _sync("format()", 1)
        return format(self._array.item() if self._array.ndim == 0 else self._array, spec)

    def __repr__(self):
        return f"strict_cupy({self._array!r})"

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __contains__(self, value):
        raise TypeError(
            "`in` on a cupy array: it has no __contains__, Python would sync once per element"
        )

    # ---- indexing
    def _index(self, key, writing):
        keys = key if isinstance(key, tuple) else (key,)
        result, axis = [], 0
        for index in keys:
            if isinstance(index, ndarray):
                index = index._array
                if index.dtype == bool:
                    _sync("boolean mask " + ("write" if writing else "read"), 1)
                elif index.dtype.kind in "iu" and index.ndim and axis < self.ndim:
                    index = (
                        index % self.shape[axis]
                    )  # CuPy wraps an index out of range, without an error
            elif isinstance(index, np.ndarray):
                raise IndexError(
                    "a NumPy array as index of a cupy array: an implicit copy to the GPU"
                )
            elif isinstance(index, list):
                stats["h2d"] += 1
            result.append(index)
            axis = self.ndim - _axes(keys) + axis if index is Ellipsis else axis + _axes((index,))
        return tuple(result) if isinstance(key, tuple) else result[0]

    def __getitem__(self, key):
        stats["ops"] += 1
        return _outer(self._array[self._index(key, False)])

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray):
            raise ValueError("a NumPy array assigned into a cupy array: xp.asarray first")
        index = self._index(key, True)
        stats["ops"] += 1
        places = np.arange(self.size).reshape(self.shape)[index]
        if np.unique(places).size != places.size:
            raise RuntimeError(
                "repeated indices in an assignment: the result is undefined on a GPU; use xp.add.at"
            )
        self._array[index] = _inner(value)


for _name in [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
]:
    setattr(ndarray, f"__{_name}__", _binary(f"__{_name}__"))
    setattr(ndarray, f"__r{_name}__", _binary(f"__r{_name}__"))
    if _name != "matmul":  # CuPy has no __imatmul__: a @= b makes a new array
        setattr(ndarray, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in ["lt", "le", "gt", "ge", "eq", "ne"]:
    setattr(ndarray, f"__{_name}__", _binary(f"__{_name}__"))
for _name in ["neg", "pos", "abs", "invert"]:
    setattr(ndarray, f"__{_name}__", _unary(f"__{_name}__"))
for _name in API["ndarray"]:
    if (
        not _name.startswith("_")
        and _name not in vars(ndarray)
        and callable(getattr(np.ndarray, _name, None))
    ):
        setattr(ndarray, _name, _method(_name))


# ---------------------------------------------------------------- functions

_CREATE = {"array", "asarray", "asanyarray"}  # the ways in from the host
_SYNCING = {
    "nonzero",
    "argwhere",
    "flatnonzero",
    "unique",
    "bincount",
    "array_equal",
    "allclose",
    "extract",
    "compress",
    "putmask",
}
_AT = {"add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"}
_REDUCE = {"add", "multiply", "logical_and", "logical_or"}


class _Ufunc:
    def __init__(self, name):
        self._ufunc, self.__name__ = getattr(np, name), name

    def __call__(self, *arguments, **keywords):
        if "where" in keywords:
            raise TypeError(f"cupy.{self.__name__} does not take where=: use xp.where")
        for x in arguments:
            if not isinstance(x, (ndarray, *_SCALARS)):
                raise TypeError(f"Unsupported type {type(x)}")
        return _call(self._ufunc, arguments, keywords)

    def __getattr__(self, method):
        if method not in API["ufunc_methods"]:
            raise AttributeError(f"cupy.ufunc has no attribute {method!r}")
        allowed = {"at": _AT, "reduce": _REDUCE, "reduceat": {"add"}}.get(method)
        if allowed is not None and self.__name__ not in allowed:
            raise NotImplementedError(f"`cupy_{self.__name__}.{method}` is not supported yet")
        f = getattr(self._ufunc, method)
        return lambda *arguments, **keywords: _call(f, arguments, keywords)


def _create(name, f, arguments, keywords):
    source = arguments[0]
    if isinstance(source, ndarray):
        return _call(f, arguments, keywords)
    stats["h2d"] += 1
    array = np.array(_inner_unless_numpy(source), *arguments[1:], **keywords)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {array.dtype}")
    return ndarray(array)


def _inner_unless_numpy(x):
    return x if isinstance(x, np.ndarray) else _inner(x)


class _Module(types.ModuleType):
    """Only names that CuPy has; NumPy's function behind each, with CuPy's keywords."""

    def __init__(self, name, numpy_module, table):
        super().__init__(name)
        self._numpy, self._table = numpy_module, table

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._table:
            also = ", though NumPy has it" if hasattr(self._numpy, name) else ""
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}{also}")
        if name == "RawModule":  # no compiler here: ops with kernels run their array code instead
            raise AttributeError(name)
        if not hasattr(self._numpy, name):
            raise NotImplementedError(f"strict_cupy: {self.__name__}.{name} has no NumPy version")
        f = getattr(self._numpy, name)
        if isinstance(f, np.ufunc):
            return _Ufunc(name)
        if not callable(f) or isinstance(f, type):
            return f

        def function(*arguments, **keywords):
            _check_keywords(name, self._table[name]["params"], keywords)
            if name in _CREATE:
                return _create(name, f, arguments, keywords)
            if name in _SYNCING:
                _sync(f"cupy.{name}", 1)
            return _call(f, arguments, keywords)

        function.__name__ = name
        return function


class _Generator:
    def __init__(self, seed=None):
        self._generator = np.random.default_rng(seed)

    def __getattr__(self, name):
        if name not in API["Generator"]:
            raise AttributeError(f"'Generator' object has no attribute {name!r}")
        f = getattr(self._generator, name)
        return lambda *arguments, **keywords: _call(f, arguments, keywords)


def asnumpy(x):
    return x.get() if isinstance(x, ndarray) else np.asarray(x)


def get_array_module(*arguments):
    return cupy if any(isinstance(x, ndarray) for x in arguments) else np


def scatter_add(a, index, value):
    _call(np.add.at, (a, index, value), {})


class Device:
    """The only device: number 0, always the current one."""

    def __init__(self, device=None):
        self.id = int(device or 0)
        if self.id != 0:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    __hash__ = object.__hash__
    compute_capability = "80"

    def use(self):
        pass

    def synchronize(self):
        _sync("Device.synchronize()")


class MemoryPool:
    """CuPy's holds what was allocated; here it is the host that does."""

    def total_bytes(self):
        return 0


cupy = _Module("cupy", np, API["cupy"])
cupy.get_default_memory_pool = MemoryPool
cupy.__version__ = API["version"]
cupy.ndarray, cupy.asnumpy, cupy.get_array_module = ndarray, asnumpy, get_array_module
cupy.linalg = _Module("cupy.linalg", np.linalg, API["linalg"])
cupy.random = _Module("cupy.random", np.random, API["random"])
cupy.random.default_rng = _Generator
cupy.lib = types.ModuleType("cupy.lib")
cupy.lib.stride_tricks = _Module(
    "cupy.lib.stride_tricks", np.lib.stride_tricks, API["stride_tricks"]
)
cupy.cuda = types.ModuleType("cupy.cuda")
cupy.cuda.Device, cupy.cuda.is_available = Device, lambda: True


class CUDARuntimeError(RuntimeError):
    __module__ = "cupy_backends.cuda.api.runtime"

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class OutOfMemoryError(MemoryError):
    __module__ = "cupy.cuda.memory"


cupy.cuda.memory = types.ModuleType("cupy.cuda.memory")
cupy.cuda.memory.OutOfMemoryError = OutOfMemoryError
cupy.cuda.runtime = types.ModuleType("cupy.cuda.runtime")
vars(cupy.cuda.runtime).update(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: 1,
    driverGetVersion=lambda: 12090,
    runtimeGetVersion=lambda: 12090,
    memGetInfo=lambda: (6 << 30, 8 << 30),
    getDeviceProperties=lambda number: {"name": b"double of a GPU", "major": 8, "minor": 0},
)
cupyx = types.ModuleType("cupyx")
cupyx.scatter_add = scatter_add


@contextlib.contextmanager
def installed():
    """Inside, `import cupy` and `import cupyx` give the double; afterwards all is as before."""
    names = {
        "cupy": cupy,
        "cupyx": cupyx,
        "cupy.linalg": cupy.linalg,
        "cupy.random": cupy.random,
        "cupy.cuda": cupy.cuda,
    }
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        yield cupy
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
