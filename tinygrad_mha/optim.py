"""Chapter 17: from gradients to steps.

An optimizer holds its parameters in groups, each with settings of its own, and changes the
parameters in place. :func:`clip_grad_norm` goes between ``backward()`` and ``step()``; a
:class:`Schedule` goes after ``step()``. The numbers are those of PyTorch's optimizers of the same
names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from .anomaly import locks
from .backend import Array, DeviceError, device_of, is_array, place_like, to_host, xp
from .nn import Parameter
from .tensor import Tensor, value

PIECE = 1 << 16  # elements: a few arrays of that size stay in the cache. 1.5 times as fast at 2 M


class Optimizer:
    """What all optimizers share: groups of parameters, their state, saving and loading.

    Parameters
    ----------
    params : iterable of Tensors, or of dicts
        A dict is a group: its ``"params"``, and any setting that differs from the common ones.
    **settings
        The common settings. Each group has all of them in ``param_groups``, as a plain dict.
    """

    kept: tuple[str, ...] = ()  # what ``state`` holds for a parameter that was changed before

    def __init__(self, params: Any, **settings: Any) -> None:
        self.settings = settings
        self.param_groups = _groups(params, settings, type(self).__name__)
        self.params: list[Tensor] = [p for group in self.param_groups for p in group["params"]]
        self.state: dict[Tensor, dict[str, Any]] = {p: {} for p in self.params}
        for group in self.param_groups:
            self.check(group)
        for p in self.params:
            _own_memory(p)

    def add_param_group(self, group: dict) -> None:
        """More parameters, from now on: a dict as those that the optimizer was made of.

        Examples
        --------
        >>> a, b = Tensor([1.0], requires_grad=True), Tensor([2.0], requires_grad=True)
        >>> optimizer = SGD([a], lr=0.5)
        >>> optimizer.add_param_group({"params": [b], "lr": 0.25})
        >>> (a * b).sum().backward()
        >>> optimizer.step()
        >>> a, b
        (Tensor([0.], requires_grad=True), Tensor([1.75], requires_grad=True))
        """
        groups = [*self.param_groups, group]
        *_, new = _groups(groups, self.settings, type(self).__name__)
        self.check(new)
        self.param_groups.append(new)
        for p in new["params"]:
            self.params.append(p)
            self.state[p] = {}
            _own_memory(p)

    def check(self, group: dict) -> None:
        """Raise ValueError if a setting of a group makes no sense."""
        for name in ("lr", "weight_decay", "momentum", "eps"):
            x = group.get(name, 0)
            if not isinstance(x, int | float | np.number) or not 0 <= x < math.inf:
                raise ValueError(f"{name} should be a finite number from 0 on, not {x!r}")

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict) -> None:
        """Change parameter ``p`` in place, given its gradient."""
        raise NotImplementedError(f"{type(self).__name__} has no update()")

    def work(self, p: Array, g: Array, state: dict[str, Any], group: dict) -> Iterator[Callable]:
        """The same as functions without arguments, which may be called side by side."""
        yield partial(self.update, p, g, state, group)

    def together(self, group: dict, params: list[Any], only_if: Any) -> list[Any]:
        """Change those parameters of a group that a GPU can change at once; return the others."""
        if all(xp(p.data) is np for p in params):
            return params
        from .kernels import optim as kernels

        rest: list[Any] = []
        alike: dict[Any, list[tuple]] = {}
        for p in params:
            a, g = p.data, p.grad.data
            if self.move_all is None or not kernels.fits(a, g) or not self.moves(a, group):
                rest.append(p)
                continue
            t, *kept = self.remembered(a, self.state[p], group)
            alike.setdefault((a.dtype, p.device, t), []).append((a, g, *kept))
        for (_, _, t), arrays in alike.items():
            self.move_all(arrays, t, group, only_if)
        return rest

    # What a subclass that has a kernel defines. move_all: one launch for (p, g, kept …) of one
    # dtype; moves: whether it may, for a parameter; remembered: the number of the step (or anything
    # else that has to be alike) and what is kept of p.
    move_all: Any = None

    def moves(self, p: Array, group: dict) -> bool:
        return True

    def remembered(self, p: Array, state: dict[str, Any], group: dict) -> tuple[Any, ...]:
        return (None, *state.values())

    def step(self, workers: Any = None, only_if: Any = None) -> None:
        """Change every parameter that has a gradient.

        ``workers``, if there are any, share the work: they have a ``count`` and a
        ``map(f, items)`` that calls ``f`` on several items at once. No bit depends on them.

        ``only_if`` is one number, such as the norm that :func:`clip_grad_norm` returns: unless it
        is finite, no parameter changes. (A GPU looks at it by itself, so that nobody has to wait;
        in Adam's count of steps such a step counts there.)
        """
        if only_if is not None and xp(only_if) is np and not np.isfinite(only_if):
            return
        with locks.lifted(p.data for p in self.params):  # detect_anomaly locks what a graph needs
            jobs: list[Callable] = []
            for group in self.param_groups:
                params: list[Any] = [p for p in group["params"] if p.grad is not None]
                for p in params:
                    if p not in self.state:
                        raise ValueError(
                            f"a parameter {p.shape} is unknown: new ones are for add_param_group()"
                        )
                    _check_gradient(p)
                    if p.grad.shape != p.shape:
                        raise ValueError(f"a parameter {p.shape} has a gradient {p.grad.shape}")
                    _on_one_device(p, p.grad.data, "gradient")
                    for name, x in self.state[p].items():
                        _on_one_device(p, x, name)
                params = self.together(group, params, only_if)
                if params and only_if is not None and not bool(xp(only_if).isfinite(only_if)):
                    return
                for p in params:
                    jobs += self.work(p.data, p.grad.data, self.state[p], group)
            n = 1 if workers is None else workers.count
            (workers.map if n > 1 else map_all)(call_all, [jobs[k::n] for k in range(n)])

    def zero_grad(self) -> None:
        """Forget the gradients: ``p.grad = None`` for every parameter."""
        for p in self.params:
            p.grad = None

    @property
    def lr(self) -> float:
        """The learning rate: of the first group, when read; of all groups, when set."""
        return self.param_groups[0]["lr"]

    @lr.setter
    def lr(self, lr: float) -> None:
        for group in self.param_groups:
            self.check(group | {"lr": lr})
            group["lr"] = float(lr)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that a training run needs in order to go on exactly where it was.

        A flat dict of host arrays (copies), so that it can be saved as any other arrays:
        ``group.0.lr``, ``param.3.step``, … Parameters are numbered in the order of the groups.
        """
        out = {}
        for k, group in enumerate(self.param_groups):
            for name in self.settings:
                out[f"group.{k}.{name}"] = np.array(group[name])
        for k, p in enumerate(self.params):
            for name, x in self.state[p].items():
                out[f"param.{k}.{name}"] = np.array(to_host(x), order="C")
        return out

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, for parameters of the same shapes.

        Raises
        ------
        ValueError
            If the state belongs to other groups or parameters; nothing has been changed then.
        """
        settings = [dict(group) for group in self.param_groups]
        kept: list[dict[str, Any]] = [{} for _ in self.params]
        expected = {f"group.{k}.{name}" for k in range(len(settings)) for name in self.settings}
        other = "this state is of another optimizer"
        if missing := expected - state.keys():
            raise ValueError(f"{other}: {', '.join(sorted(missing))} missing")
        for key, x in state.items():
            a = to_host(value(x))
            kind, number, name = key.split(".") if key.count(".") == 2 else ("", "", "")
            k = int(number) if number.isdecimal() else -1
            if key in expected:
                x = a.tolist()
                settings[k][name] = tuple(x) if isinstance(x, list) else x
            elif kind == "param" and 0 <= k < len(self.params) and name in self.kept:
                p = self.params[k].data
                if a.shape != (() if name == "step" else p.shape):
                    raise ValueError(f"{other}: {key} is {a.shape}, the parameter {p.shape}")
                array = place_like(np.array(a, p.dtype, order="C"), p)
                kept[k][name] = int(a) if name == "step" else array
            else:
                raise ValueError(f"{other}: {key} is unexpected")
        for k, loaded in enumerate(kept):
            if loaded and (missing := set(self.kept) - loaded.keys()):
                raise ValueError(f"{other}: param.{k} has no {', '.join(sorted(missing))}")
            kept[k] = {name: loaded[name] for name in self.kept if loaded}
        for group in settings:
            self.check(group)
        for group, loaded in zip(self.param_groups, settings, strict=True):
            group.update(loaded)
        self.state = dict(zip(self.params, kept, strict=True))

    def __repr__(self) -> str:
        groups = []
        for group in self.param_groups:
            size = sum(p.size for p in group["params"])
            what = ", ".join(f"{name}={group[name]}" for name in self.settings)
            groups.append(f"{len(group['params'])} parameters of {size:,} numbers: {what}")
        return f"{type(self).__name__}({'; '.join(groups)})"


def _check_gradient(p: Tensor) -> None:
    if not isinstance(p.grad, Tensor):
        raise TypeError(
            f"the .grad of a parameter {p.shape} is a {type(p.grad).__name__}, and should be a "
            "Tensor: Tensor(array)"
        )


def _on_one_device(p: Tensor, x: Any, what: str) -> None:
    """Refuse to change a parameter by an array that lies elsewhere."""
    if type(x) is not type(p.data) and is_array(x):
        cure = "bring them together, as with .to()"
        if what != "gradient":
            cure = (
                "after model.to(), let the optimizer follow: "
                "optimizer.load_state_dict(optimizer.state_dict())"
            )
        raise DeviceError(
            f"a parameter {p.shape} is on {p.device}, its {what} on {device_of(x)}: {cure}"
        )


def call_all(jobs: Iterable[Callable]) -> None:
    for job in jobs:
        job()


def map_all(f: Callable, items: Iterable) -> list:
    return [f(item) for item in items]


def _groups(params: Any, settings: dict, optimizer: str) -> list[dict]:
    """``params`` as a list of groups, every one with all settings; checked."""
    if isinstance(params, Tensor) or not isinstance(params, Iterable):
        raise TypeError(
            f"{optimizer}: params should be a list of Tensors (module.parameters()) or of dicts, "
            f"not a {type(params).__name__}"
        )
    params = list(params)
    if not any(isinstance(p, dict) for p in params):
        params = [{"params": params}]
    groups, seen = [], set()
    for group in params:
        if not isinstance(group, dict) or "params" not in group:
            raise TypeError(f"{optimizer}: every group should be a dict with 'params'")
        if unknown := group.keys() - settings.keys() - {"params"}:
            raise ValueError(
                f"{optimizer}: unknown setting {', '.join(sorted(unknown))}; "
                f"there are {', '.join(settings)}"
            )
        inside = group["params"]
        inside = [inside] if isinstance(inside, Tensor) else list(inside)
        for p in inside:
            if not isinstance(p, Tensor):
                raise TypeError(f"{optimizer}: parameters are Tensors, not {type(p).__name__}")
            if p.node is not None:
                raise ValueError(
                    f"{optimizer}: a parameter {p.shape} was computed by {p.node.op.name}; only "
                    "leaves are optimized, so pass the Tensors it was computed from"
                )
            if id(p) in seen:
                raise ValueError(f"{optimizer}: a parameter {p.shape} is listed twice")
            seen.add(id(p))
        groups.append(settings | group | {"params": inside})
    if not seen:
        raise ValueError(f"{optimizer}: there are no parameters")
    return groups


def _own_memory(p: Tensor) -> None:
    """Give p an array of its own, unless it is a Parameter, which has one already."""
    flags = p.data.flags
    writable = xp(p.data) is not np or flags.writeable
    if not (isinstance(p, Parameter) and flags.owndata and flags.c_contiguous and writable):
        p.data = xp(p.data).array(p.data, order="C")


def pieces(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same stretch of each array, one stretch after another: views of at most PIECE elements.

    A step goes over its arrays a dozen times. Piece by piece, all but the first time finds them in
    the processor's cache, and no temporary array is larger than a piece.
    """
    if xp(arrays[0]) is not np or not all(a.flags.c_contiguous for a in arrays):
        yield arrays
        return
    flat = [a.reshape(-1) for a in arrays]
    for start in range(0, flat[0].size, PIECE):
        yield tuple(a[start : start + PIECE] for a in flat)


# -------------------------------------------------------------------------------- optimizers


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    d = g + weight_decay · p        v ← momentum · v + d        (v = d at the first step)
    p ← p − lr · v                  or, with nesterov, p ← p − lr · (d + momentum · v)

    Parameters
    ----------
    params : iterable of Tensors, or of dicts with ``"params"`` and settings of their own
    lr : float
    momentum : float
    nesterov : bool
        Needs a momentum.
    weight_decay : float

    Raises
    ------
    TypeError, ValueError
        If the parameters are no leaves, none, or listed twice; if a setting makes no sense.

    Notes
    -----
    Source: Sutskever et al., On the importance of initialization and momentum in deep learning,
    §2, in the form of PyTorch, where the learning rate multiplies v and is not part of it.

    Examples
    --------
    >>> x = Tensor([1.0], requires_grad=True)
    >>> sgd = SGD([x], lr=0.25)
    >>> (x * x).sum().backward()    # the gradient is 2
    >>> sgd.step(); x
    Tensor([0.5], requires_grad=True)
    """

    kept = ("velocity",)

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )

    def check(self, group: dict) -> None:
        super().check(group)
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("nesterov needs a momentum above 0")

    def remembered(self, p: Array, state: dict[str, Any], group: dict) -> tuple[Any, ...]:
        if group["momentum"] and not state:
            state["velocity"] = xp(p).zeros(p.shape, p.dtype)
        return super().remembered(p, state, group)

    def move_all(self, arrays: list[tuple], _: Any, group: dict, only_if: Any) -> None:
        from .kernels import optim as kernels

        kernels.sgd(arrays, group, only_if)

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict) -> None:
        lr, mu, decay = (float(group[name]) for name in ("lr", "momentum", "weight_decay"))
        self.remembered(p, state, group)
        for piece in pieces(p, g, *state.values()):
            p, d, *kept = piece
            if decay:
                d = d + decay * p
            if mu:
                (v,) = kept
                v *= mu
                v += d
                d = d + mu * v if group["nesterov"] else v
            p -= lr * d


class Adam(Optimizer):
    """Steps scaled by running averages of the gradient and of its square.

    m ← β₁ m + (1 − β₁) g      v ← β₂ v + (1 − β₂) g²      (both 0 at first)
    p ← p − lr · m̂ / (√v̂ + eps),   m̂ = m / (1 − β₁ᵗ),   v̂ = v / (1 − β₂ᵗ)

    The divisions undo the pull towards the zeros that m and v began with; t counts the steps.

    Parameters
    ----------
    params : iterable of Tensors, or of dicts with ``"params"`` and settings of their own
    lr : float
    betas : (float, float)
        β₁ and β₂, in [0, 1).
    eps : float
    weight_decay : float
        This multiple of p is added to the gradient. (In :class:`AdamW` it bypasses m and v.)
    lazy : bool
        Leave the rows of a table alone whose gradient is zero: p, m and v stay as they are, so
        that a step costs one look at g plus work for the rows in use. That is *not* what Adam is:
        there, a row whose word is absent still moves by what m remembers, and decays. Meant for
        embeddings, in a group of their own: ``[{"params": table.parameters(), "lazy": True}, …]``.
        On a GPU it waits for the device.

    Raises
    ------
    TypeError, ValueError
        If the parameters are no leaves, none, or listed twice; if a setting makes no sense.

    Notes
    -----
    Source: Kingma, Ba, Adam: A Method for Stochastic Optimization, algorithm 1.

    Examples
    --------
    >>> x = Tensor([1.0, -4.0], requires_grad=True)
    >>> adam = Adam([x], lr=0.5)
    >>> (x * x).sum().backward()
    >>> adam.step()     # the first step is lr in every direction, however long g is
    >>> x.numpy().round(3)
    array([ 0.5, -3.5], dtype=float32)
    """

    kept = ("step", "mean", "square")
    decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lazy: bool = False,
    ) -> None:
        given: Any = tuple(betas) if isinstance(betas, list) else betas
        super().__init__(params, lr=lr, betas=given, eps=eps, weight_decay=weight_decay, lazy=lazy)

    def check(self, group: dict) -> None:
        super().check(group)
        betas = group["betas"]
        if np.shape(betas) != (2,) or not all(0 <= b < 1 for b in betas):
            raise ValueError(f"betas should be two numbers in [0, 1), not {betas}")

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict) -> None:
        call_all(self.work(p, g, state, group))

    def move_all(self, arrays: list[tuple], t: Any, group: dict, only_if: Any) -> None:
        from .kernels import optim as kernels

        kernels.adam(arrays, t, group, self.decoupled, only_if)

    def moves(self, p: Array, group: dict) -> bool:
        return not (group["lazy"] and p.ndim > 1)

    def remembered(self, p: Array, state: dict[str, Any], group: dict) -> tuple[Any, ...]:
        """The number of the step that begins, and the averages."""
        m = xp(p)
        if not state:
            state.update(step=0, mean=m.zeros(p.shape, p.dtype), square=m.zeros(p.shape, p.dtype))
        state["step"] += 1
        return state["step"], state["mean"], state["square"]

    def work(self, p: Array, g: Array, state: dict[str, Any], group: dict) -> Iterator[Callable]:
        t, mean, square = self.remembered(p, state, group)
        arrays = p, g, mean, square
        if group["lazy"] and p.ndim > 1:
            yield partial(self._move_rows, arrays, t, group)
        else:
            for piece in pieces(*arrays):
                yield partial(self._move, piece, t, group)

    def _move_rows(self, arrays: Sequence[Array], t: int, group: dict) -> None:
        m, g = xp(arrays[1]), arrays[1]
        rows = m.flatnonzero(g.any(axis=tuple(range(1, g.ndim))))
        copies = [a[rows] for a in arrays]
        self._move(copies, t, group)
        for k in (0, 2, 3):
            arrays[k][rows] = copies[k]

    def _move(self, arrays: Sequence[Array], t: int, group: dict) -> None:
        p, g, mean, square = arrays
        lr, eps, decay = (float(group[name]) for name in ("lr", "eps", "weight_decay"))
        b1, b2 = (float(b) for b in group["betas"])
        if self.decoupled:
            p *= 1 - lr * decay
        elif decay:
            g = g + decay * p
        m, x = xp(p), g * (1 - b1)  # x is scratch from here on
        mean *= b1
        mean += x
        m.multiply(g, g, out=x)
        x *= 1 - b2
        square *= b2
        square += x
        m.sqrt(square, out=x)
        x /= math.sqrt(1 - b2**t)
        x += eps
        m.divide(mean, x, out=x)
        x *= lr / (1 - b1**t)
        p -= x


class AdamW(Adam):
    """:class:`Adam` with decoupled weight decay: p ← (1 − lr · weight_decay) p before each step.

    So all weights shrink at one rate; in Adam, where the decay is part of the gradient, those with
    large gradients would shrink less. Takes what Adam takes; ``weight_decay`` is 0.01 if left out.

    Notes
    -----
    Source: Loshchilov, Hutter, Decoupled Weight Decay Regularization, algorithm 2.

    Examples
    --------
    >>> x = Tensor([1.0], requires_grad=True)
    >>> adamw = AdamW([x], lr=0.1, weight_decay=0.5)
    >>> x.sum().backward()
    >>> adamw.step(); round(x.item(), 4)     # 1 · (1 − 0.05) − 0.1
    0.85
    """

    decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        lazy: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, lazy)


# ---------------------------------------------------------------------------------- clipping


def clip_grad_norm(params: Any, max_norm: float, error_if_nonfinite: bool = False) -> Any:
    """Scale all gradients down together, if their joint 2-norm is above ``max_norm``.

    Parameters
    ----------
    params : Tensor or iterable of Tensors
        Those without a gradient are passed over.
    max_norm : float
    error_if_nonfinite : bool
        Raise if the norm is infinite or not a number, before any gradient is touched. Otherwise
        such a norm makes gradients of 0 and NaN. (On a GPU, looking at it waits for the device; and
        float32 squares are infinite there from 1.8e19 on, while a CPU then divides before.)

    Returns
    -------
    The norm before, as an array scalar (on a GPU: as a 0-d array there, without waiting for it)

    Raises
    ------
    ValueError
        If ``max_norm`` is negative; on request, if the norm is not finite.

    Notes
    -----
    The factor is max_norm / (norm + 1e-6), at most 1, as PyTorch has it. Source: Pascanu, Mikolov,
    Bengio, On the difficulty of training recurrent neural networks, §3.2.

    Examples
    --------
    >>> x = Tensor([3.0, 4.0], requires_grad=True)
    >>> (x * x * 0.5).sum().backward()
    >>> float(clip_grad_norm([x], 1.0)), x.grad.numpy().round(3).tolist()
    (5.0, [0.6000000238418579, 0.800000011920929])
    """
    if not isinstance(max_norm, int | float | np.number) or not max_norm >= 0:
        raise ValueError(f"max_norm should be a number from 0 on, not {max_norm}")
    params = [params] if isinstance(params, Tensor) else list(params)
    params = [p for p in params if p.grad is not None]
    if not params:
        return np.float32(0.0)
    for p in params:
        _check_gradient(p)
    devices = sorted({p.grad.device for p in params})
    if len(devices) > 1:
        raise DeviceError(
            f"the gradients are on {' and '.join(devices)}: "
            f"bring them together, as with .to({devices[-1]!r})"
        )
    m = xp(params[0].grad.data)
    if m is not np and not error_if_nonfinite:
        from .kernels import optim as kernels

        made = kernels.clipped([p.grad.data for p in params], max_norm)
        if made is not None:
            norm, gradients = made
            for p, g in zip(params, gradients, strict=True):
                p.grad = Tensor(g)
            return norm
    norm = _norm(m, [p.grad.data for p in params])
    if m is np and norm == np.inf:  # a square may be too large where the norm is not
        top = max(float(abs(p.grad.data).max(initial=0)) for p in params)
        if 0 < top < np.inf:
            norm = norm.dtype.type(top) * _norm(m, [p.grad.data / top for p in params])
    if error_if_nonfinite and not bool(m.isfinite(norm)):
        raise ValueError(f"the norm of the gradients is {float(norm)}, which no factor can clip")
    factor = m.minimum(float(max_norm) / (norm + 1e-6), 1.0)
    if m is np and factor == 1:
        return norm
    for p in params:  # not in place: the user may have set one array as two gradients
        p.grad = p.grad.detach() * factor.astype(p.grad.dtype)
    return norm


def _norm(m: Any, gradients: list[Array]) -> Any:
    squares = [m.vdot(g, g) for g in gradients]
    return m.sqrt(sum(squares[1:], start=squares[0]))


# --------------------------------------------------------------------------------- schedules


def warmup_linear(
    step: int, warmup: int, total: int, floor: float = 0.0, start: float = 0.0
) -> float:
    """The share of the learning rate at a step: up in a straight line, then down in another.

    Parameters
    ----------
    step : int
        0, 1, 2, …
    warmup, total : int
        From ``start`` at step 0 to 1 at step ``warmup``; from there to ``floor`` at step ``total``,
        where it stays. ``floor=1`` makes a warm-up and nothing else.
    floor, start : float

    Examples
    --------
    >>> [warmup_linear(step, 2, 6) for step in range(8)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    if step < warmup:
        return start + (1 - start) * step / warmup
    return floor + (1 - floor) * (1 - _progress(step, warmup, total))


def warmup_cosine(
    step: int, warmup: int, total: int, floor: float = 0.0, start: float = 0.0
) -> float:
    """As :func:`warmup_linear`, but down along half a wave of the cosine.

    Source: Loshchilov, Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, §3, equation
    5 (without restarts).

    Examples
    --------
    >>> [round(warmup_cosine(step, 2, 6), 3) for step in range(8)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    if step < warmup:
        return start + (1 - start) * step / warmup
    return floor + (1 - floor) * (1 + math.cos(math.pi * _progress(step, warmup, total))) / 2


def _progress(step: int, warmup: int, total: int) -> float:
    return min(1.0, (step - warmup) / (total - warmup)) if total > warmup else 1.0


class Schedule:
    """Sets the optimizer's learning rate to a function of the step.

    Each group's rate is the one it has now times ``factor(step)``. The factor for step 0 is set at
    once; call :meth:`step` after each ``optimizer.step()``.

    Parameters
    ----------
    optimizer : Optimizer
    factor : function of an integer, 0 or more

    Examples
    --------
    >>> sgd = SGD([Tensor([1.0], requires_grad=True)], lr=0.8)
    >>> halving = Schedule(sgd, lambda step: 0.5**step)
    >>> rates = []
    >>> for _ in range(3):
    ...     rates.append(sgd.lr)
    ...     sgd.step()
    ...     halving.step()
    >>> rates
    [0.8, 0.4, 0.2]
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        self.optimizer, self.factor = optimizer, factor
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.count = 0
        self._set()

    def _set(self) -> None:
        factor = self.factor(self.count)
        for group, lr in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = lr * factor

    def step(self) -> None:
        """On to the next step."""
        self.count += 1
        self._set()

    def state_dict(self) -> dict[str, np.ndarray]:
        """The step and the rates at factor 1, as arrays; the function is not part of it."""
        return {"step": np.array(self.count), "rates": np.array(self.rates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, and set the learning rate to match."""
        rates = to_host(state["rates"]).tolist()
        if len(rates) != len(self.rates):
            raise ValueError(f"this state has {len(rates)} groups, the optimizer {len(self.rates)}")
        self.rates, self.count = rates, int(state["step"])
        self._set()


class WarmupLinear(Schedule):
    """:func:`warmup_linear`, driving an optimizer.

    >>> sgd = SGD([Tensor([1.0], requires_grad=True)], lr=0.8)
    >>> schedule = WarmupLinear(sgd, warmup=2, total=6)
    >>> schedule.step(); sgd.lr
    0.4
    """

    shape = staticmethod(warmup_linear)

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int,
        total: int,
        floor: float = 0.0,
        start: float = 0.0,
    ) -> None:
        if not 0 <= warmup <= total:
            raise ValueError(f"warmup {warmup} should lie between 0 and total {total}")
        for name, x in (("floor", floor), ("start", start)):
            if not 0 <= x <= 1:
                raise ValueError(f"{name} is a share of the learning rate, in [0, 1], not {x}")
        factor = partial(self.shape, warmup=warmup, total=total, floor=floor, start=start)
        super().__init__(optimizer, factor)


class WarmupCosine(WarmupLinear):
    """:func:`warmup_cosine`, driving an optimizer.

    >>> sgd = SGD([Tensor([1.0], requires_grad=True)], lr=0.8)
    >>> schedule = WarmupCosine(sgd, warmup=2, total=6, floor=0.5)
    >>> for _ in range(6): schedule.step()
    >>> sgd.lr
    0.4
    """

    shape = staticmethod(warmup_cosine)
