"""The certificate's points, on this project and on its peers: which of them hold.

    python bench/compare_gradients.py                # pip install 'autograd[scipy]>=1.8' mygrad
    python bench/compare_gradients.py --failures     # and what went wrong, one line each

The cases are those of the certificate (tests/cases.py), drawn once and given to every library, in
float64 and away from kinks. They are sorted by kind: a case with an array of no elements, one with
a 0-d array, one that broadcasts, and the rest. An op passes a point if all of its cases do.
(Those of einsum are written out.)
Every gradient is compared with central differences along a random direction, for a random incoming
gradient. A case whose gradient is wrong counts there, and is left out of the points further down.

Nothing counts against a library for an op that it does not have, or for arguments that it does not
take or says are not implemented: those are listed below the table. No input lies at a kink, except
where the row says so. Of the certificate's points, those are left out that only this project can
have: that a fused op equals its reference, and the same numbers on a GPU.

The peers, for their part, have much that is not asked for here. autograd: complex numbers, linear
algebra, forward mode; MyGrad: views and updates in place, convolutions, recurrent layers. And two
rows are traps that others know rather than slips: a NaN comes out of the branch which where() does
not take in PyTorch and JAX as well; and sharing memory does no harm to who never writes into it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import subprocess
import sys
import warnings
import weakref
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from side_by_side import table

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from cases import CASES

EPS, DEEP, DRAWN = 1e-6, 20_000, 60


class Wrong(Exception):
    """What went wrong, in one line."""


class NotOffered(Exception):
    """Arguments that a library does not take, by its own words."""


# ---------------------------------------------------------------------------------- the libraries
# Each has ``ops`` (our name of an op -> the library's function, called as ours is) and
# ``record(f, args, which)``: f's results as arrays, and ``pull``, from the incoming gradients to
# the gradients of those args that ``which`` numbers. ``slope(f, which, n)`` is the gradient as a
# function of n args and the incoming gradients, which can be recorded again. ``without``: point ->
# why the library does not have it.


class Ours:
    name, install = "tinygrad_mha", "pip install -e ."
    without: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        import tinygrad_mha as tg

        self.tg, self.ops = tg, {name: tg.REGISTRY[name] for name in OPS}

    def record(self, f: Callable, args: Sequence, which: Sequence[int]) -> tuple[list, Callable]:
        xs = [self.tg.Tensor(a, requires_grad=k in which) if is_float(a) else a
              for k, a in enumerate(args)]  # fmt: skip
        ys = as_list(f(*xs))

        def pull(vs: Sequence) -> list:
            return [d.data for d in self._gradients(ys, vs, [xs[k] for k in which])]

        return [y.data for y in ys], pull

    def _gradients(self, ys: list, vs: Sequence, xs: list, create_graph: bool = False) -> list:
        total = [None] * len(xs)
        for y, v in zip(ys, vs, strict=True):
            if y.requires_grad:
                ds = self.tg.grad(y, xs, v, create_graph=create_graph, allow_unused=True)
                total = [b if a is None else a if b is None else a + b
                         for a, b in zip(total, ds, strict=True)]  # fmt: skip
        return [x * 0.0 if d is None else d for x, d in zip(xs, total, strict=True)]

    def slope(self, f: Callable, which: Sequence[int], n: int) -> Callable:
        def gradient(*both: Any) -> tuple:
            xs = [both[k] for k in which]
            return tuple(self._gradients(as_list(f(*both[:n])), both[n:], xs, create_graph=True))

        return gradient


class Autograd:
    """HIPS autograd: functions of arrays; ``make_vjp`` gives a result and its pullback."""

    name, install = "autograd", "pip install 'autograd[scipy]>=1.8'"
    without: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        import autograd
        import autograd.numpy as anp

        def clip(x: Any, low: Any, high: Any) -> Any:
            if not all(limit is None or isinstance(limit, float) for limit in (low, high)):
                raise NotOffered("only x has a gradient, not the limits")
            return anp.clip(x, low, high)

        self.autograd, self.ops = autograd, numpy_like(anp)
        self.ops |= {
            "astype": lambda x, dtype: x.astype(dtype),
            "clip": clip,
            "getitem": lambda x, key: x[key],
            "norm": anp.linalg.norm,
            "outer": anp.outer,
            "pad": lambda x, widths, constant_values: anp.pad(
                x, widths, "constant", constant_values=constant_values
            ),
            "split": lambda x, indices_or_sections, axis: anp.split(x, indices_or_sections, axis),
            "tile": anp.tile,
            "tril": anp.tril,
            "triu": anp.triu,
        }
        with contextlib.suppress(ImportError):
            import autograd.scipy.special as special

            self.ops |= {
                "erf": special.erf,
                "logsumexp": special.logsumexp,
                "sigmoid": special.expit,
            }

    def record(self, f: Callable, args: Sequence, which: Sequence[int]) -> tuple[list, Callable]:
        one = len(which) == 1
        vjp, y = self.autograd.make_vjp(f, which[0] if one else tuple(which))(*args)

        def pull(vs: Sequence) -> list:
            ds = vjp(type(y)(vs) if isinstance(y, (list, tuple)) else vs[0])
            return [ds] if one else list(ds)

        return as_list(y), pull

    def slope(self, f: Callable, which: Sequence[int], n: int) -> Callable:
        def gradient(*both: Any) -> Any:
            vjp, y = self.autograd.make_vjp(f, tuple(which))(*both[:n])
            kinds = {list: self.autograd.list, tuple: self.autograd.tuple}
            # autograd's type(): y is in a box while this is recorded
            several = kinds.get(self.autograd.type(y))
            return vjp(several(both[n:]) if several else both[n])

        return gradient


class MyGrad:
    """Tensors; ``y.backward(gradient)`` leaves the gradients in ``x.grad``, as arrays."""

    name, install = "MyGrad", "pip install mygrad"
    without: ClassVar[dict[str, str]] = {
        "order 2": "gradients are NumPy arrays, which it does not record",
        "recorded": "likewise",
        "again": "backward() clears the graph, as documented; a second one leaves x.grad as it was",
    }

    def __init__(self) -> None:
        import mygrad as mg
        from mygrad.nnet import activations, losses

        def classified(loss: Callable, x: Any, targets: Any) -> Any:
            if x.ndim != 2:
                raise NotOffered("scores are (N, C)")
            return loss(x, targets)

        def expand_dims(x: Any, axis: Any) -> Any:
            if isinstance(axis, tuple):
                raise NotOffered("axis is an integer")
            return mg.expand_dims(x, axis)

        self.mg, self.ops = mg, numpy_like(mg)
        self.ops |= {
            "cross_entropy": partial(classified, losses.softmax_crossentropy),
            "expand_dims": expand_dims,
            "getitem": lambda x, key: x[key],
            "log_softmax": activations.logsoftmax,
            "nll_loss": partial(classified, losses.negative_log_likelihood),
            "norm": mg.linalg.norm,
            "relu": activations.relu,
            "sigmoid": activations.sigmoid,
            "softmax": activations.softmax,
        }

    def record(self, f: Callable, args: Sequence, which: Sequence[int]) -> tuple[list, Callable]:
        xs = [self.mg.tensor(a, constant=k not in which, copy=False) if is_float(a) else a
              for k, a in enumerate(args)]  # fmt: skip
        y = f(*xs)

        def pull(vs: Sequence) -> list:
            y.backward(vs[0])
            return [np.zeros_like(x.data) if x.grad is None else x.grad
                    for x in (xs[k] for k in which)]  # fmt: skip

        return [y.data], pull


def numpy_like(m: Any) -> dict[str, Callable]:
    """What a library has under NumPy's names, called by ours."""
    same = (
        "abs add cos cumsum exp expand_dims expm1 log log1p matmul max maximum mean "
        "min minimum prod sin sqrt squeeze sum swapaxes tanh where"
    )
    other = {"div": "divide", "mul": "multiply", "neg": "negative", "pow": "power"}
    return {
        **{name: getattr(m, name) for name in same.split()},
        **{name: getattr(m, theirs) for name, theirs in other.items()},
        "sub": m.subtract,
        "broadcast_to": lambda x, shape: m.broadcast_to(x, shape),
        "clip": lambda x, low, high: m.clip(x, low, high),
        "concatenate": lambda *parts, axis: m.concatenate(parts, axis=axis),
        "einsum": lambda *operands, subscripts: m.einsum(subscripts, *operands),
        "reshape": lambda x, shape: m.reshape(x, shape),
        "stack": lambda *parts, axis: m.stack(parts, axis=axis),
        "std": lambda x, correction=0, **k: m.std(x, ddof=correction, **k),
        "transpose": lambda x, axes: m.transpose(x, axes),
        "var": lambda x, correction=0, **k: m.var(x, ddof=correction, **k),
    }


LIBRARIES = (Ours, Autograd, MyGrad)
# All of ours that at least one of the peers has, too.
NAMES = """
    abs add astype broadcast_to clip concatenate cos cross_entropy cumsum div einsum erf exp
    expand_dims expm1 getitem log log1p log_softmax logsumexp matmul max maximum mean min minimum
    mul neg nll_loss outer pad pow prod relu reshape sigmoid sin softmax split sqrt squeeze stack
    std sub sum swapaxes tanh tile transpose tril triu var where
"""
OPS = tuple(NAMES.split())


def installed() -> Iterator[Any]:
    """The libraries there are; a line for each that is missing."""
    for library in LIBRARIES:
        try:
            with warnings.catch_warnings():  # theirs, when they are imported
                warnings.simplefilter("ignore")
                found = library()
            yield found
        except ImportError:
            print(f"{library.name} is not installed: {library.install}\n")


# -------------------------------------------------------------------------------------- the cases


class Case(NamedTuple):
    op: str
    kind: str
    args: tuple
    params: dict
    values: list  # what our own op gives


PLAIN, BROADCAST, SCALAR, EMPTY = "plain", "broadcast", "0-d", "zero-size"
KINDS = (PLAIN, BROADCAST, SCALAR, EMPTY)
BROADCASTING = ("add", "clip", "div", "matmul", "maximum", "minimum", "mul", "pow", "sub", "where")


def is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def floats(args: Sequence) -> list[int]:
    return [k for k, a in enumerate(args) if is_float(a)]


def as_list(y: Any) -> list:
    return list(y) if isinstance(y, (list, tuple)) else [y]


def narrowed(op: str, args: tuple, params: dict) -> tuple[tuple, dict] | None:
    """The case as all libraries define it, with arrays of its own; None if they do not.

    What has a row of its own is left out: -inf in softmax, a zero in prod, a std of 0.
    """
    args = tuple(np.array(a, order="C") if isinstance(a, np.ndarray) else a for a in args)
    if not floats(args) or not all(np.isfinite(args[k]).all() for k in floats(args)):
        return None
    if op == "prod":
        args = (np.where(args[0] == 0, 0.7, args[0]),)
    if op in ("cross_entropy", "nll_loss"):  # a mean of several, by integers that count
        x, targets = args
        if x.ndim < 2 or not targets.size or (targets < 0).any():
            return None
        return (x.reshape(-1, x.shape[-1]), targets.ravel()), {}
    if params.get("correction", 0) % 1:
        return None
    if op == "logsumexp" and not args[0].ndim:  # SciPy has other shapes
        return None
    return args, {k: v for k, v in params.items() if k not in ("approximate",)}


def kind_of(op: str, args: tuple, values: list) -> str:
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    if any(a.size == 0 for a in (*arrays, *values)):
        return EMPTY
    if any(a.ndim == 0 for a in arrays):
        return SCALAR
    shapes = {a.shape[:-2] if op == "matmul" else a.shape for a in arrays}
    return BROADCAST if op in BROADCASTING and len(shapes) > 1 else PLAIN


def plain_einsum(rng: np.random.Generator) -> list[tuple]:
    """Sums of products over labels that every operand has once."""
    sizes = {"b": 2, "i": 2, "j": 3, "k": 2}
    return [
        (tuple(np.asarray(rng.standard_normal([sizes[c] for c in term]))
               for term in subscripts.partition("->")[0].split(",")), {"subscripts": subscripts})
        for subscripts in
        ("i,j->ij", "ij->ji", "ij,ij->i", "i,ij->j", "bij,bjk->bik", "ij,jk->ik")
    ]  # fmt: skip


def draw(op: str, count: int, start: int, drawn: int = DRAWN) -> list[Case]:
    """At most ``count`` cases of each kind, out of ``drawn``."""
    import tinygrad_mha as tg

    found: list[tuple] = []

    @seed(zlib.crc32(op.encode()) + start)
    @settings(max_examples=drawn, database=None, deadline=None, phases=[Phase.generate],
              derandomize=False, suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(CASES[op])
    def collect(case: tuple) -> None:
        found.append(case)

    if op == "einsum":  # what is drawn is nearly always of the kind that has a row of its own
        found += plain_einsum(np.random.default_rng(start))
    else:
        collect()
    kept: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    for args, params in reversed(found):  # the first are the simplest
        narrow = narrowed(op, args, params)
        if narrow is None:
            continue
        values = [np.asarray(y) for y in as_list(tg.REGISTRY[op](*narrow[0], **narrow[1]))]
        if op == "std" and not values[0].all():
            continue
        kind = kind_of(op, narrow[0], values)
        alone = all(np.size(a) == 1 for a in narrow[0])
        if len(kept[kind]) < count and not (kind == PLAIN and alone):
            kept[kind].append(Case(op, kind, *narrow, values))
    return [case for some in kept.values() for case in some]


# ------------------------------------------------------------------- what every point is made of


def cotangents(values: Sequence, rng: np.random.Generator, dtype: Any = np.float64) -> list:
    return [np.asarray(rng.standard_normal(np.shape(y))).astype(dtype) for y in values]


def check_gradient(library: Any, f: Callable, args: Sequence, rng: np.random.Generator) -> None:
    """Against central differences, along one random direction for each argument."""
    which = floats(args)
    values, pull = library.record(f, args, which)
    vs = cotangents(values, rng)
    for k, d in zip(which, pull([v.copy() for v in vs]), strict=True):
        d = np.asarray(d)
        if d.shape != args[k].shape:
            raise Wrong(f"the gradient has shape {d.shape}, the input {args[k].shape}")
        measure = partial(difference, library, f, args, which, k, vs)
        direction = np.asarray(rng.standard_normal(d.shape))
        if far((d * direction).sum(), measure(direction)):
            raise Wrong(located(k, d, measure))


def difference(
    library: Any, f: Callable, args: Sequence, which: Sequence, k: int, vs: list, step: np.ndarray
) -> float:
    ends = []
    for side in (EPS, -EPS):
        moved = [a + side * step if j == k else a for j, a in enumerate(args)]
        moved[k] = np.asarray(moved[k])
        ends.append(library.record(f, moved, which)[0])
    parts = [(v * (p - q)).sum() for v, p, q in zip(vs, *ends, strict=True)]
    return float(sum(parts)) / (2 * EPS)


def far(a: Any, b: Any) -> Any:
    return ~(np.abs(a - b) <= 1e-7 + 1e-5 * np.abs(b))


def located(k: int, d: np.ndarray, measure: Callable) -> str:
    """The first element that is wrong."""
    for i in np.ndindex(d.shape):
        one = np.zeros(d.shape)
        one[i] = 1
        n = measure(one)
        if far(d[i], n):
            return f"argument {k}{list(i) or ''}: gradient {d[i]:.6g}, differences {n:.6g}"
    return f"argument {k}: all together differ from the differences, each alone does not"


def equal(got: Sequence, want: Sequence, what: str, tolerance: float = 0.0) -> None:
    for a, b in zip(got, want, strict=True):
        if np.shape(a) != np.shape(b):
            raise Wrong(f"{what}: shape {np.shape(a)}, not {np.shape(b)}")
        if not np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
            i = np.unravel_index(np.argmax(np.abs(np.subtract(a, b))), np.shape(a))
            raise Wrong(f"{what}: {np.asarray(a)[i]:.6g}, not {np.asarray(b)[i]:.6g}")


class Trial(NamedTuple):
    """One case on one library."""

    library: Any
    case: Case
    rng: np.random.Generator

    @property
    def f(self) -> Callable:
        return partial(self.library.ops[self.case.op], **self.case.params)

    def recorded(self, args: Sequence | None = None) -> tuple[list, Callable]:
        args = self.case.args if args is None else args
        return self.library.record(self.f, args, floats(args))

    def gradients(self, args: Sequence | None = None, vs: list | None = None) -> list:
        values, pull = self.recorded(args)
        vs = cotangents(values, np.random.default_rng(1)) if vs is None else vs
        return [np.array(d) for d in pull(vs)]


# ------------------------------------------------------------------------- the points, op by op


def gradient(trial: Trial) -> None:
    values, _ = trial.recorded()
    equal(values, trial.case.values, "the value", 1e-9)
    check_gradient(trial.library, trial.f, trial.case.args, trial.rng)


def order_2(trial: Trial) -> None:
    args = trial.case.args
    slope = trial.library.slope(trial.f, floats(args), len(args))
    check_gradient(trial.library, slope, [*args, *cotangents(trial.case.values, trial.rng)],
                   trial.rng)  # fmt: skip


def recorded(trial: Trial) -> None:
    """What a recorded backward pass computes is what a plain one does."""
    args, vs = trial.case.args, cotangents(trial.case.values, np.random.default_rng(1))
    slope = trial.library.slope(trial.f, floats(args), len(args))
    both = [*args, *vs]
    got, _ = trial.library.record(slope, both, floats(both))
    equal(as_list(got), trial.gradients(), "recorded", 1e-9)


def float32(trial: Trial) -> None:
    args = [a.astype(np.float32) if is_float(a) else a for a in trial.case.args]
    if trial.case.op == "astype":
        raise NotOffered("the dtype is an argument")
    values, pull = trial.recorded(args)
    ds = pull(cotangents(values, trial.rng, np.float32))
    for what, arrays in (("result", values), ("gradient", ds)):
        wrong = {str(np.asarray(a).dtype) for a in arrays} - {"float32"}
        if wrong:
            raise Wrong(f"a {what} of {', '.join(wrong)}")
    equal(values, trial.case.values, "the value", 2e-3)


def layouts(trial: Trial) -> None:
    """Transposed, with steps, reversed and read-only inputs: the same gradients."""
    want = trial.gradients()
    for name, lay in LAYOUTS.items():
        args = [lay(a) if is_float(a) else a for a in trial.case.args]
        equal(trial.gradients(args), want, f"{name} inputs", 1e-9)


def layouts_of_g(trial: Trial) -> None:
    """The same of the incoming gradient; and one number for all places, as it comes from a sum."""
    want = trial.gradients()
    for name, lay in LAYOUTS.items():
        vs = [lay(v) for v in cotangents(trial.case.values, np.random.default_rng(1))]
        equal(trial.gradients(vs=vs), want, f"a {name} incoming gradient", 1e-9)
    flat = [np.broadcast_to(np.float64(0.7), np.shape(y)) for y in trial.case.values]
    want = trial.gradients(vs=[v.copy() for v in flat])
    equal(trial.gradients(vs=flat), want, "a broadcast incoming gradient", 1e-9)


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS: dict[str, Callable] = {
    "transposed": lambda a: a.T.copy().T,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    "reversed": lambda a: np.asarray(np.flip(np.flip(a).copy())),
    "read-only": read_only,
}


def constants(trial: Trial) -> None:
    """With plain arrays in the other arguments."""
    args = trial.case.args
    for k, want in zip(floats(args), trial.gradients(), strict=True):
        values, pull = trial.library.record(trial.f, args, [k])
        equal(pull(cotangents(values, np.random.default_rng(1))), [want], "others constant", 1e-9)


def untouched(trial: Trial) -> None:
    args = [np.copy(a) if is_float(a) else a for a in trial.case.args]
    values, pull = trial.recorded(args)
    vs = cotangents(values, trial.rng)
    kept = [v.copy() for v in vs]
    pull(vs)
    equal([args[k] for k in floats(args)], [trial.case.args[k] for k in floats(args)], "an input")
    equal(vs, kept, "the incoming gradient")


def apart(trial: Trial) -> None:
    """No gradient lies in the memory of another, of the incoming one, an input or a result."""
    values, pull = trial.recorded()
    vs = cotangents(values, trial.rng)
    ds = pull(vs)
    owners = [("another gradient", d) for d in ds] + [("the incoming gradient", v) for v in vs]
    owners += [("a result", y) for y in values]
    owners += [("an input", trial.case.args[k]) for k in floats(trial.case.args)]
    for (j, d), (k, (name, other)) in itertools.product(enumerate(ds), enumerate(owners)):
        if j != k and np.may_share_memory(d, other) and root(d) is root(other):
            raise Wrong(f"the gradient of argument {j} lies in the memory of {name}")


def root(a: Any) -> Any:
    """The array that owns the memory."""
    while getattr(a, "base", None) is not None:
        a = a.base
    return a


def again(trial: Trial) -> None:
    """A second backward, after one with another incoming gradient: the same, or an error."""
    values, pull = trial.recorded()
    vs, others = (cotangents(values, np.random.default_rng(n)) for n in (1, 2))
    first = pull(vs)
    kept = [np.array(d) for d in first]
    try:
        other = pull(others)
    except Exception:
        return
    equal(first, kept, "the first gradients, after a second backward")
    equal(other, trial.gradients(vs=others), "a second backward", 1e-9)
    equal(pull(vs), kept, "a third backward")


def freed(trial: Trial) -> None:
    """After forward, and after forward and backward, nothing is left that needs the collector."""
    for backward in (False, True):
        args = [np.copy(a) if is_float(a) else a for a in trial.case.args]
        gc.disable()
        try:
            values, pull = trial.recorded(args)
            gone = [weakref.ref(a) for a in (*args, *values) if is_float(a)]
            if backward:
                pull(cotangents(values, trial.rng))
            del args, values, pull
            left = sum(r() is not None for r in gone)
        finally:
            gc.enable()
        if left:
            raise Wrong(f"{left} arrays wait for it after {'backward' if backward else 'forward'}")


# One array in several arguments; where the arguments would tie, nothing is asked.
SHARED: dict[str, Callable] = {
    **{name: lambda op, x: op(x, x) for name in ("add", "sub", "mul", "div", "pow", "matmul")},
    "concatenate": lambda op, x: op(x, x, x, axis=1),
    "einsum": lambda op, x: op(x, x, x, subscripts="ij,jk,ik->k"),
    "outer": lambda op, x: op(x[0], x[0]),
    "stack": lambda op, x: op(x, x, x, axis=1),
    "where": lambda op, x: op(np.arange(9).reshape(3, 3) % 2 == 0, x, x),
}


def shared(trial: Trial) -> None:
    x = trial.rng.permutation(9).reshape(3, 3) / 6 + 0.5
    f = partial(SHARED[trial.case.op], trial.library.ops[trial.case.op])
    check_gradient(trial.library, f, [x], trial.rng)


# point -> what the row says, the check, the kinds it looks at
POINTS: dict[str, tuple[str, Callable, Sequence[str]]] = {
    "gradient": ("gradient = central differences", gradient, [PLAIN]),
    "broadcast": ("– of arrays that broadcast", gradient, [BROADCAST]),
    "0-d": ("– of 0-d arrays", gradient, [SCALAR]),
    "zero-size": ("– of arrays with no elements", gradient, [EMPTY]),
    "shared": ("– of one array in several arguments", shared, []),
    "order 2": ("gradient of the gradient = differences", order_2, KINDS),
    "recorded": ("recorded backward = plain backward", recorded, KINDS),
    "float32": ("float32 stays float32", float32, KINDS),
    "layouts": ("inputs transposed, strided, reversed, read-only", layouts, KINDS),
    "layouts of g": ("the incoming gradient so, or broadcast", layouts_of_g, KINDS),
    "constants": ("plain arrays in the other arguments", constants, KINDS),
    "untouched": ("inputs and incoming gradient untouched", untouched, KINDS),
    "apart": ("no memory shared with a gradient", apart, KINDS),
    "again": ("a second backward: the same, or an error", again, KINDS),
    "freed": ("freed without the garbage collector", freed, KINDS),
}


# ------------------------------------------------------------------------- the points, by places


class Place(NamedTuple):
    """A function of arrays, written with a library's ops, at a place where gradients go wrong."""

    name: str
    needs: str  # the ops it is made of
    f: Callable  # f(ops, *xs)
    xs: Sequence[Any]
    finite: bool = False  # ask only that the gradient is no NaN: there is no single right one


def dead(name: str, branch: Callable, bad: float) -> Place:
    """where(c, x, branch(x)): branch is not taken at the place where it has no slope."""
    needs = f"where {name.split()[0]}"
    c = np.array([True, False])
    return Place(name, needs, lambda o, x: o["where"](c, x, branch(o, x)), [[bad, 0.5]])


def of_infinities() -> Iterator[Place]:
    low, big = [[1.0, -np.inf, 0.3], [0.5, 2.0, 1.0]], [[1000.0, 1001.0, 999.5], [-1000, 0, 1]]
    for name in ("softmax", "log_softmax", "logsumexp"):
        yield Place(
            f"{name} with a -inf",
            f"{name} getitem",
            # where the result itself is -inf there is no difference to take
            lambda o, x, n=name: o["getitem"](o[n](x, axis=-1), key=(..., slice(None, None, 2))),
            [low],
        )  # fmt: skip
        yield Place(f"{name} at ±1000", name, lambda o, x, n=name: o[n](x, axis=-1), [big])
    for name in ("sigmoid", "tanh"):
        yield Place(f"{name} at ±1000", name, lambda o, x, n=name: o[n](x), [[-1000.0, 0, 1000]])


def of_einsum() -> Iterator[Place]:
    shapes = {
        "ii->i": [(3, 3)],
        "ii->": [(3, 3)],
        "ii": [(3, 3)],
        "iij->j": [(2, 2, 3)],
        "iij,jk->ik": [(2, 2, 3), (3, 2)],
        "ii,ii->i": [(3, 3), (3, 3)],
        "ij->i": [(2, 3)],
        "ij,jk->": [(2, 3), (3, 2)],
        "ij,kl->il": [(2, 3), (3, 2)],
        "ijk,j->i": [(2, 3, 2), (3,)],
        "i,i->": [(2,), (1,)],
        "ij,ij->ij": [(2, 3), (1, 3)],
        "ij,jk->ik": [(2, 3), (1, 2)],
        "...i,...i->...": [(2, 3), (1, 3)],
        "...ij,jk->...ik": [(2, 2, 3), (3, 2)],
        "i...->...": [(2, 3)],
        "...,...->...": [(2, 3), (3,)],
        "ij...,j...->i...": [(2, 3, 2), (3, 1)],
        ",ij->ij": [(), (2, 3)],
        "ij,jk": [(2, 3), (3, 2)],
        "ij,jk,kl->il": [(2, 3), (3, 2), (2, 2)],
    }
    rng = np.random.default_rng(0)
    for subscripts, of in shapes.items():
        xs = [np.asarray(rng.standard_normal(s)) for s in of]
        names = " ".join(str(s).replace(" ", "") for s in of)
        yield Place(f"einsum {subscripts} {names}", "einsum",
                    lambda o, *xs, s=subscripts: o["einsum"](*xs, subscripts=s), xs)  # fmt: skip
    one = np.array([0.7])
    yield Place("einsum i,i-> (2,) and a constant (1,)", "einsum",
                lambda o, x: o["einsum"](x, one, subscripts="i,i->"), [[0.2, 0.5]])  # fmt: skip


def of_prod() -> Iterator[Place]:
    x = [[0.0, 2, 3], [0, 0, 3], [1, 2, 4]]
    for name, rows, axis in (
        ("no zero", [2], 1),
        ("one zero in a row", [0, 2], 1),
        ("two zeros in a row", [1, 2], 1),
        ("zeros, over all", [0], None),
        ("zeros, over columns", [0, 1, 2], 0),
    ):
        yield Place(f"prod, {name}", "prod", lambda o, x, axis=axis: o["prod"](x, axis=axis),
                    [[x[k] for k in rows]])  # fmt: skip


def of_indices() -> Iterator[Place]:
    x = np.arange(12.0).reshape(4, 3) / 7
    keys = {
        "x[[0, 0, 2]]": np.array([0, 0, 2]),
        "x[[3, -1]]": np.array([3, -1]),
        "x[[0, 0], [1, 1]]": (np.array([0, 0]), np.array([1, 1])),
        "x[:, [1, 1, 0]]": (slice(None), np.array([1, 1, 0])),
        "x[[[0, 1], [1, 0]]]": np.array([[0, 1], [1, 0]]),
        "x[::2, None, [2, 2]]": (slice(None, None, 2), None, np.array([2, 2])),
    }
    for name, key in keys.items():
        yield Place(name, "getitem", lambda o, x, key=key: o["getitem"](x, key=key), [x])


zeros, equals = [[0.0, 0, 0], [3, 0, 4]], [[2.0, 2, 2], [1, 2, 4]]
PLACES: dict[str, list[Place]] = {
    "no NaN out of the dead branch of where": [
        dead("sqrt at 0", lambda o, x: o["sqrt"](x), 0.0),
        dead("sqrt at -1", lambda o, x: o["sqrt"](x), -1.0),
        dead("log at 0", lambda o, x: o["log"](x), 0.0),
        dead("log at -1", lambda o, x: o["log"](x), -1.0),
        dead("log1p at -1", lambda o, x: o["log1p"](x), -1.0),
        dead("div 1 / 0", lambda o, x: o["div"](1.0, x), 0.0),
        dead("pow x ** -1 at 0", lambda o, x: o["pow"](x, -1.0), 0.0),
        dead("pow x ** 0.5 at 0", lambda o, x: o["pow"](x, 0.5), 0.0),
        dead("exp at 1000", lambda o, x: o["exp"](x), 1000.0),
    ],
    "softmax and its kin at -inf and ±1000": list(of_infinities()),
    "no NaN from sqrt, norm and std at 0": [
        Place("sqrt of 0", "sqrt", lambda o, x: o["sqrt"](x), [[0.0, 4]], True),
        Place("sqrt of Σ x² at x = 0", "sqrt sum mul",
              lambda o, x: o["sqrt"](o["sum"](o["mul"](x, x), axis=1)), [zeros], True),
        Place("norm at 0", "norm", lambda o, x: o["norm"](x, axis=1), [zeros], True),
        Place("std of equal numbers", "std", lambda o, x: o["std"](x, axis=1), [equals], True),
    ],
    "prod with zeros": list(of_prod()),
    "indices that repeat": list(of_indices()),
    "einsum: repeated, summed-only, size-1, ellipsis": list(of_einsum()),
}  # fmt: skip


def check_place(library: Any, place: Place, rng: np.random.Generator) -> None:
    f, xs = partial(place.f, library.ops), [np.asarray(x, float) for x in place.xs]
    if not place.finite:
        return check_gradient(library, f, xs, rng)
    values, pull = library.record(f, xs, floats(xs))
    for d in pull(cotangents(values, rng)):
        if np.isnan(d).any():
            raise Wrong(f"the gradient is {np.array2string(d, precision=3).replace(chr(10), '')}")


# ------------------------------------------------------------------------------------ a deep chain

STAGES = ("forward", "backward", "free after backward", "free after forward")


def deep(library: Any) -> None:
    """A chain of 20,000 ops; prints each stage that is over."""
    add, mul = library.ops["add"], library.ops["mul"]

    def chain(x: Any) -> Any:
        y = x
        for _ in range(DEEP // 2):
            y = add(mul(y, 0.5), 1.0)
        return y

    values, pull = library.record(chain, [np.ones(2)], [0])
    print(STAGES[0], flush=True)
    pull(cotangents(values, np.random.default_rng(0)))
    print(STAGES[1], flush=True)
    del pull
    print(STAGES[2], flush=True)
    values, pull = library.record(chain, [np.ones(2)], [0])
    del pull
    print(STAGES[3], flush=True)


def deep_stages(library: Any) -> tuple[list[str], str]:
    """The stages that a process of its own gets through, and how it ended."""
    done = subprocess.run(
        [sys.executable, __file__, "--deep", library.name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return done.stdout.splitlines(), last[0]


# --------------------------------------------------------------------------------------- the table


class Failure(NamedTuple):
    row: str
    op: str
    case: str
    said: str
    raised: bool


class Results:
    """Rows of counts; what went wrong; and what was not asked, with the library's reason."""

    def __init__(self, libraries: Sequence[Any]) -> None:
        self.libraries = libraries
        self.rows: list[list[str]] = []
        self.failures: dict[str, list[Failure]] = {library.name: [] for library in libraries}
        self.limits: dict[str, dict[str, set]] = {
            library.name: defaultdict(set) for library in libraries
        }

    def tried(
        self, library: Any, row: str, op: str, case: str, check: Callable, *args: Any
    ) -> bool | None:
        """Whether it holds; None if the library says that it does not do this."""
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                check(*args)
        except (NotOffered, NotImplementedError) as e:
            if op != "astype":
                self.limits[library.name][op].add(str(e).split("\n")[0].rstrip("."))
            return None
        except Wrong as e:
            self.failures[library.name].append(Failure(row, op, case, str(e), False))
            return False
        except Exception as e:
            said = f"{type(e).__name__}: {e}".split("\n")[0][:150]
            self.failures[library.name].append(Failure(row, op, case, said, True))
            return False
        return True

    def held(self, row: str) -> dict[str, str]:
        """The cells of a row, by library."""
        cells = next(cells for name, _, *cells in self.rows if name == row)
        return dict(zip([library.name for library in self.libraries], cells, strict=True))


def cell(passed: dict[str, bool]) -> str:
    return f"{sum(passed.values())} of {len(passed)}" if passed else "–"


def compare(
    libraries: Sequence[Any], ops: Sequence[str] | None = None, count: int = 6, start: int = 0,
    drawn: int = DRAWN, places: bool = True, chain: bool = True,
) -> Results:  # fmt: skip
    """All points, on these libraries and ops."""
    results = Results(libraries)
    cases = {op: draw(op, count, start, drawn) for op in OPS if ops is None or op in ops}
    by_op(results, cases, start)
    for row, several in PLACES.items() if places else ():
        cells = []
        for library in libraries:
            passed = {}
            for place in several:
                if all(op in library.ops for op in place.needs.split()):
                    rng = np.random.default_rng(start)
                    what = place.name, "", check_place, library, place, rng
                    passed[place.name] = results.tried(library, row, *what)
            cells.append(cell({name: held for name, held in passed.items() if held is not None}))
        results.rows.append([row, "cases", *cells])
    if chain:
        row, cells = f"a chain of {DEEP:,} ops: {', '.join(STAGES)}", []
        for library in libraries:
            stages, end = deep_stages(library)
            cells.append(f"{len(stages)} of {len(STAGES)}")
            for stage in STAGES[len(stages) :][:1]:
                results.failures[library.name].append(Failure(row, stage, "", end, True))
        results.rows.append([row, "stages", *cells])
    return results


def by_op(results: Results, cases: dict[str, list[Case]], start: int) -> None:
    """A row for each of POINTS."""
    good: set = set()
    for point, (row, check, kinds) in POINTS.items():
        cells = []
        for library in results.libraries:
            passed: dict[str, bool] = {}
            for op in [] if point in library.without else [op for op in cases if op in library.ops]:
                some = [case for case in cases[op] if case.kind in kinds]
                if check is shared and op in SHARED:
                    some = [Case(op, PLAIN, (), {}, [])]
                elif check is not gradient:  # a case that is wrong counts once
                    some = [case for case in some if (library.name, id(case)) in good]
                for case in some:
                    rng = np.random.default_rng([start, zlib.crc32(f"{point} {op}".encode())])
                    trial = Trial(library, case, rng)
                    held = results.tried(library, row, op, shown(case), check, trial)
                    if held is not None:
                        passed[op] = passed.get(op, True) and held
                    if held and check is gradient:
                        good.add((library.name, id(case)))
            cells.append(cell(passed))
        results.rows.append([row, "ops", *cells])


def shown(case: Case) -> str:
    """The shapes of the arrays, and the rest of the arguments."""
    words = [str(a.shape).replace(" ", "") if isinstance(a, np.ndarray) else repr(a)
             for a in case.args]  # fmt: skip
    words += [f"{k}={v!r}".replace("\n", "") for k, v in case.params.items()]
    return ", ".join(words)


def notes(results: Results) -> Iterator[str]:
    """How it fails, and what the counts leave out, library by library."""
    for library in results.libraries:
        failures = results.failures[library.name]
        if failures:
            ways = [len({(f.row, f.op or f.case) for f in failures if f.raised is way})
                    for way in (True, False)]  # fmt: skip
            yield f"{library.name}: {ways[0]} of what fails raise, {ways[1]} do not."
        lacks = [op for op in OPS if op not in library.ops]
        if lacks:
            yield f"{library.name} has no {', '.join(lacks)}."
        for point, reason in library.without.items():
            yield f"{library.name}, {POINTS[point][0]!r}: {reason}."
        for op, reasons in sorted(results.limits[library.name].items()):
            yield f"{library.name}, {op}: not asked where it says: {'; '.join(sorted(reasons))}."


def failure_lines(failures: Sequence[Failure]) -> Iterator[str]:
    """One line for each row and op: the first case that fails, and how many more do."""
    groups: dict[tuple, list[Failure]] = defaultdict(list)
    for failure in failures:
        groups[failure.row, failure.op].append(failure)
    for (row, op), same in groups.items():
        more = f" (and {len(same) - 1} more)" if len(same) > 1 else ""
        where = f" of {same[0].case}" if same[0].case else ""
        yield f"  {row.lstrip('– ')} | {op}{where}: {same[0].said}{more}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=6, help="of each kind, for each op")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", action="store_true", help="list what went wrong")
    parser.add_argument("--deep", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.deep:
        return deep(next(library() for library in LIBRARIES if library.name == options.deep))
    libraries = list(installed())
    results = compare(libraries, count=options.cases, start=options.seed, drawn=10 * options.cases)
    print(table(["point", "counted", *(library.name for library in libraries)], results.rows))
    print()
    for line in notes(results):
        print(f"- {line}")
    if options.failures:
        for name, failures in results.failures.items():
            print(f"\n{name}:", *failure_lines(failures) if failures else ["  nothing"], sep="\n")
    return None


if __name__ == "__main__":
    main()
