"""Values, gradients and training curves beside those of PyTorch, in float64.

PyTorch is used here and nowhere else. The cases of the ops are those of their certificate.
"""

import warnings

import numpy as np
import pytest
from cases import CASES
from figures import seen
from hypothesis import assume, given
from hypothesis import strategies as st

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn, optim

torch = pytest.importorskip("torch", reason="needs PyTorch (extra torch)")
F = torch.nn.functional
pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True, scope="module")
def quiet_and_exact():
    """One thread for PyTorch; float64 for both."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    tg.set_default_dtype(np.float64)
    yield
    tg.set_default_dtype(np.float32)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def rng():
    tg.manual_seed(0)
    torch.manual_seed(0)
    return np.random.default_rng(0)


def theirs(x, grad=True):
    """A copy of an array (or Tensor) as PyTorch's tensor; anything else as it is."""
    if isinstance(x, Tensor):
        x = x.data
    if not isinstance(x, np.ndarray):
        return x
    return torch.tensor(np.array(x), requires_grad=grad and x.dtype.kind == "f")


def close(ours, other, what="", tolerance=1e-11):
    other = other.detach().numpy() if isinstance(other, torch.Tensor) else other
    assert tuple(ours.shape) == other.shape
    np.testing.assert_allclose(ours.numpy(), other, rtol=tolerance, atol=tolerance, err_msg=what)


def difference(ours, other):
    """The largest difference, as a part of one or of the number itself, whichever is larger."""
    a, b = ours.numpy(), other.detach().numpy()
    with np.errstate(invalid="ignore"):  # -inf - -inf
        off = np.where(a == b, 0.0, np.abs(a - b)) / (1 + np.abs(b))
    return off.max(initial=0.0)


def agree(our_op, their_op, *args, name=None):
    """Both ops on the same arguments: the same outputs, and gradients under random weights."""
    xs = [
        Tensor(a, requires_grad=True) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
        for a in args
    ]
    ts = [theirs(a) for a in args]
    ys, us = our_op(*xs), their_op(*ts)
    ys, us = (r if isinstance(r, tuple) else (r,) for r in (ys, us))
    rng = np.random.default_rng(1)
    loss, their_loss = 0, 0
    for k, (y, u) in enumerate(zip(ys, us, strict=True)):
        close(y, u, f"output {k}")
        if name:
            seen(f"agreement with PyTorch {torch.__version__}", "values", name, difference(y, u))
        w = rng.standard_normal(y.shape)
        loss = loss + (y * w).sum()
        their_loss = their_loss + (u * torch.tensor(w)).sum()
    loss.backward()
    their_loss.backward()
    for k, (x, t) in enumerate(zip(xs, ts, strict=True)):
        if isinstance(x, Tensor):
            none = np.zeros(x.shape)  # what None means: the output does not depend on it
            dx, dt = (none if z.grad is None else z.grad for z in (x, t))
            close(Tensor(dx), dt, f"gradient {k}")
            if name:
                off = difference(Tensor(dx), torch.as_tensor(dt))
                seen(f"agreement with PyTorch {torch.__version__}", "gradients", name, off)


# ----------------------------------------------------------------------------------- every op


def every(x, axis):
    """NumPy's axis as a tuple: for PyTorch, () sometimes means all axes."""
    return tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)


def reduction(f):
    def reduced(x, axis, keepdims):
        axes = every(x, axis)
        return f(x, dim=axes, keepdim=keepdims) if axes or not x.ndim else x * 1

    return reduced


def places(shape, key):
    """Where x[key] lies in x, flattened. NumPy's own indexing says so."""
    return torch.tensor(np.arange(np.prod(shape, dtype=int)).reshape(shape)[key].copy())


def scatter(x, key, shape):
    at = places(shape, key).reshape(-1)
    flat = torch.zeros(int(np.prod(shape))).index_add(0, at, x.reshape(-1))
    return flat.reshape(shape)


def squeeze(x, axis):
    if axis is None:
        return x.squeeze()
    return x.squeeze(every(x, axis)) if axis != () else x * 1


def softmax(x, axis):
    dead = torch.isneginf(x).all(dim=axis)
    assume(not (x.shape[axis] and dead.any()))  # PyTorch says NaN, we say zeros
    return torch.softmax(x, axis)


def cross_entropy(logits, targets, weight, label_smoothing, ignore_index, reduction):
    ignored = -100 if ignore_index is None else ignore_index
    y = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        targets.reshape(-1).long(),
        weight=theirs(weight, grad=False),
        ignore_index=ignored,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    return y.reshape(targets.shape) if reduction == "none" else y


def cross_entropy_of_something(logits, targets, ignore_index, reduction, **options):
    counts = targets != (-100 if ignore_index is None else ignore_index)
    assume(reduction != "mean" or counts.any())  # PyTorch says NaN, we say zero
    return cross_entropy(logits, targets, ignore_index=ignore_index, reduction=reduction, **options)


def layer_norm(x, weight, bias, eps):
    shape = next((p.shape for p in (weight, bias) if p is not None), x.shape[-1:])
    return F.layer_norm(x, shape, weight, bias, eps)


def attention(q, k, v, mask, is_causal, dropout_p, scale, seed, recompute):
    assume(not dropout_p)  # their masks are others
    assume(q.numel() and k.numel() and v.numel())  # PyTorch loses axes of empty arrays
    mask = theirs(mask, grad=False)
    if mask is not None:
        scores = (*torch.broadcast_shapes(q.shape[:-2], k.shape[:-2]), q.shape[-2], k.shape[-2])
        mask = mask.expand(scores)
        if is_causal:  # PyTorch takes either, not both
            future = ~torch.ones(scores, dtype=bool).tril()
            mask = mask.masked_fill(future, False if mask.dtype == torch.bool else -torch.inf)
        allowed = mask if mask.dtype == torch.bool else ~torch.isneginf(mask)
        assume(allowed.any(dim=-1).all())  # older versions say NaN
        is_causal = False
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale)


def lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reverse):
    """One direction of nn.LSTM; the way back is the second half of a bidirectional one."""
    assume(x.numel() and (lengths is None or min(lengths) > 0))  # PyTorch packs no empty text
    steps, ways = x.shape[0], ["", "_reverse"] if reverse else [""]
    rnn = torch.nn.LSTM(x.shape[2], h0.shape[1], bidirectional=reverse)
    zeros = torch.zeros(4 * h0.shape[1])
    weights = {
        "weight_ih_l0": w_ih,
        "weight_hh_l0": w_hh,
        "bias_ih_l0": zeros if b_ih is None else b_ih,
        "bias_hh_l0": zeros if b_hh is None else b_hh,
    }
    weights = {name + way: w for name, w in weights.items() for way in ways}
    state = tuple(torch.stack([s] * len(ways)) for s in (h0, c0))
    if lengths is not None:
        pack = torch.nn.utils.rnn.pack_padded_sequence
        x = pack(x, torch.tensor(np.array(lengths)), enforce_sorted=False)
    with warnings.catch_warnings():  # about weights that are not one block of memory
        warnings.simplefilter("ignore", UserWarning)
        y, (h, c) = torch.func.functional_call(rnn, weights, (x, state))
    if lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=steps)
    return y[:, :, -h0.shape[1] :], h[-1], c[-1]


def tensor(x):
    """A number as a tensor too, which some functions insist on."""
    return x if isinstance(x, torch.Tensor) else torch.tensor(np.array(x))


def clip(x, low, high):
    ts = torch.broadcast_tensors(*(tensor(v) for v in (x, low, high) if v is not None))  # or fails
    named = zip([k for k, v in (("min", low), ("max", high)) if v is not None], ts[1:], strict=True)
    return torch.clamp(ts[0], **dict(named))


def pad(x, widths, constant_values):
    pairs = np.broadcast_to(widths, (x.ndim, 2))[::-1].reshape(-1).tolist()  # last axis first
    return F.pad(x, pairs, value=constant_values) if pairs else x * 1


def split(x, indices_or_sections, axis):
    return torch.tensor_split(x, indices_or_sections, axis)


def take(x, indices, axis):
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis % x.ndim)
    at = tensor(indices).long()
    at = torch.where(at < 0, at + x.shape[axis], at)
    s = (*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, at.reshape(-1)).reshape(s)


def take_along_axis(x, indices, axis):
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    at = indices.long()
    return torch.take_along_dim(x, torch.where(at < 0, at + x.shape[axis], at), axis)


def spread(f):
    def of(x, axis, keepdims, correction):
        axes = every(x, axis)
        if not axes:  # each number alone does not vary
            return x * 0
        if not x.numel():  # PyTorch warns, though there is nothing to divide
            return x.sum(dim=axes, keepdim=keepdims)
        return f(x, dim=axes, keepdim=keepdims, correction=correction)

    return of


def prod(x, axis, keepdims):
    """One axis after another, which is all that PyTorch has."""
    for a in sorted((a % x.ndim for a in every(x, axis)), reverse=True):
        x = x.prod(a, keepdim=keepdims)
    return x * 1


def gelu(x, approximate):
    return F.gelu(x, approximate=approximate)


def nll_loss(log_probs, targets, weight, ignore_index, reduction):
    ignored = -100 if ignore_index is None else ignore_index
    assume(reduction != "mean" or (targets != ignored).any())  # PyTorch says NaN, we say zero
    y = F.nll_loss(
        log_probs.reshape(-1, log_probs.shape[-1]),
        targets.reshape(-1).long(),
        weight=theirs(weight, grad=False),
        ignore_index=ignored,
        reduction=reduction,
    )
    return y.reshape(targets.shape) if reduction == "none" else y


def binary_cross_entropy(logits, targets, weight, pos_weight, reduction):
    assume(reduction != "mean" or logits.numel())  # PyTorch says NaN, we say zero
    weights = {"weight": weight, "pos_weight": pos_weight}
    weights = {k: None if w is None else tensor(w) for k, w in weights.items()}
    return F.binary_cross_entropy_with_logits(logits, targets.double(), **weights,
                                              reduction=reduction)  # fmt: skip


def mse_loss(predictions, targets, reduction):
    assume(reduction != "mean" or predictions.numel())
    return F.mse_loss(predictions, targets.double(), reduction=reduction)


def rms_norm(x, weight, eps):
    return F.rms_norm(x, x.shape[-1:] if weight is None else weight.shape, weight, eps)


TORCH = {
    "abs": torch.abs,
    "add": lambda a, b: a + b,
    "add_layer_norm": lambda x, residual, *rest, **params: layer_norm(
        x + residual, *rest, **params
    ),
    "astype": lambda x, dtype: x.to(torch.float64),
    "binary_cross_entropy_with_logits": binary_cross_entropy,
    "broadcast_to": lambda x, shape: x.broadcast_to(shape),
    "clip": clip,
    "concatenate": lambda *xs, axis: (
        torch.cat([x.reshape(-1) for x in xs]) if axis is None else torch.cat(xs, axis)
    ),
    "cos": torch.cos,
    "cross_entropy": cross_entropy_of_something,
    "cumsum": lambda x, axis: x.reshape(-1).cumsum(0) if axis is None else x.cumsum(axis),
    "div": lambda a, b: a / b,
    "einsum": lambda *xs, subscripts: torch.einsum(subscripts, *xs),
    "embedding": F.embedding,
    "erf": torch.erf,
    "exp": torch.exp,
    "expand_dims": lambda x, axis: x.reshape(np.expand_dims(x.detach().numpy(), axis).shape),
    "expm1": torch.expm1,
    "flip": lambda x, axis: torch.flip(x, every(x, axis)),
    "gelu": gelu,
    "getitem": lambda x, key: x.reshape(-1)[places(x.shape, key)],
    "identity": lambda x: x * 1,
    "layer_norm": layer_norm,
    "linear": lambda x, weight, bias: F.linear(x, weight, bias),
    "linear_gelu": lambda *args, approximate: F.gelu(F.linear(*args), approximate=approximate),
    "log": torch.log,
    "log1p": torch.log1p,
    "log_softmax": lambda x, axis: torch.log_softmax(x, axis),
    "logsumexp": reduction(torch.logsumexp),
    "lstm": lstm,
    "masked_fill": lambda x, mask, value: x.masked_fill(mask, value),
    "matmul": torch.matmul,
    "max": reduction(torch.amax),
    "maximum": torch.maximum,
    "mean": reduction(torch.mean),
    "min": reduction(torch.amin),
    "minimum": torch.minimum,
    "mse_loss": mse_loss,
    "mul": lambda a, b: a * b,
    "neg": torch.neg,
    "nll_loss": nll_loss,
    "outer": lambda a, b: torch.outer(a.reshape(-1), b.reshape(-1)),
    "pad": pad,
    "pow": lambda a, b: a**b,
    "prod": prod,
    "relu": torch.relu,
    "reshape": lambda x, shape: x.reshape(shape),
    "rms_norm": rms_norm,
    "scaled_dot_product_attention": attention,
    "scatter": scatter,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "sin": torch.sin,
    "softmax": softmax,
    "softplus": F.softplus,
    "split": split,
    "sqrt": torch.sqrt,
    "squeeze": squeeze,
    "stack": lambda *xs, axis: torch.stack(xs, axis),
    "std": spread(torch.std),
    "sub": lambda a, b: a - b,
    "sum": reduction(torch.sum),
    "sum_to": lambda x, shape: x.sum_to_size(shape),
    "swapaxes": lambda x, axis1, axis2: x.transpose(axis1, axis2),
    "take": take,
    "take_along_axis": take_along_axis,
    "tanh": torch.tanh,
    "tile": lambda x, reps: torch.tile(x, tuple(reps) if np.ndim(reps) else (reps,)),
    "transpose": lambda x, axes: x.permute(tuple(range(x.ndim))[::-1] if axes is None else axes),
    "tril": lambda x, k: torch.tril(x, k),
    "triu": lambda x, k: torch.triu(x, k),
    "var": spread(torch.var),
    "where": torch.where,
}
ELSEWHERE = {
    "dropout": "their masks are others",
    "to": "the device has tests of its own",
}


def test_every_op_is_compared_or_says_why_not():
    assert sorted(tg.REGISTRY) == sorted([*TORCH, *ELSEWHERE])


@pytest.mark.parametrize("name", TORCH)
@given(st.data())
def test_op(name, data):
    args, params = data.draw(CASES[name])
    agree(
        lambda *xs: tg.REGISTRY[name](*xs, **params),
        lambda *ts: TORCH[name](*ts, **params),
        *args,
        name=name,
    )


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        (tg.maximum, torch.maximum),
        (tg.minimum, torch.minimum),
        (lambda a, b: tg.max(a + b * 0, axis=1), lambda a, b: torch.amax(a + b * 0, 1)),
        (lambda a, b: tg.min(a + b * 0), lambda a, b: torch.amin(a + b * 0)),
        (lambda a, b: tg.relu(a) + tg.abs(b), lambda a, b: torch.relu(a) + torch.abs(b)),
        (lambda a, b: tg.clip(a + b * 0, 0, 1), lambda a, b: torch.clamp(a + b * 0, 0, 1)),
        (lambda a, b: tg.std(a * 0 + b), lambda a, b: torch.std(a * 0 + b, correction=0)),
        (lambda a, b: tg.prod(a, axis=1) * b[:, 0], lambda a, b: torch.prod(a, 1) * b[:, 0]),
    ],
)
def test_ties_and_kinks(ours, other, rng):
    a, b = rng.integers(-1, 2, (2, 4, 5)).astype(float)
    agree(ours, other, a, b)


@pytest.mark.parametrize(
    "key",
    [1, -1, slice(1, 3), (slice(None), 2), (..., 0), None, (0, None, slice(None, None, 2)),
     [2, 0, 2], (slice(None), [1, 1, 3]), ([0, 2], [1, 1]), ([[0], [2]], [1, 3])],
)  # fmt: skip
def test_indices_that_both_know(key, rng):
    agree(lambda x: x[key], lambda t: t[key], rng.standard_normal((3, 4)))


def test_a_boolean_index(rng):
    x = rng.standard_normal((3, 4))
    mask = x > 0
    agree(lambda a: a[mask], lambda t: t[torch.tensor(mask)], x)


@pytest.mark.parametrize(("tq", "tk"), [(3, 5), (5, 3), (4, 4), (1, 4)])
@pytest.mark.parametrize("kind", ["none", "causal", "boolean", "floating"])
def test_attention(tq, tk, kind, rng):
    q, k, v = (rng.standard_normal((2, 3, t, d)) for t, d in ((tq, 4), (tk, 4), (tk, 2)))
    mask = {"boolean": rng.random((2, 1, tq, tk)) < 0.6, "floating": rng.standard_normal((tq, tk))}
    mask = mask.get(kind)
    if kind == "boolean":
        mask[..., 0] = True
    agree(
        lambda *x: tg.scaled_dot_product_attention(*x, mask=mask, is_causal=kind == "causal"),
        lambda *x: F.scaled_dot_product_attention(
            *x, attn_mask=theirs(mask, grad=False), is_causal=kind == "causal"
        ),
        *(q, k, v),
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [None, -100, 2])
def test_cross_entropy(reduction, smoothing, weighted, ignore, rng):
    logits, targets = rng.standard_normal((7, 4)) * 5, rng.integers(0, 4, 7)
    targets[2:5] = 2 if ignore is None else ignore
    options = {"label_smoothing": smoothing, "ignore_index": ignore, "reduction": reduction}
    weight = rng.uniform(0.1, 2, 4) if weighted else None
    agree(
        lambda x: tg.cross_entropy(x, targets, weight=weight, **options),
        lambda t: cross_entropy(t, torch.tensor(targets), weight, **options),
        logits,
    )


# ------------------------------------------------------------------------------------ modules


def both_ways(ours, other):
    """Load the other's weights into ours, and ours back into it; every name fits."""
    assert list(ours.state_dict()) == list(other.state_dict())
    ours.load_state_dict(dict(other.named_parameters()))  # these require gradients
    ours.load_state_dict(other.state_dict())
    for name, a in ours.state_dict().items():
        np.testing.assert_array_equal(a, other.state_dict()[name].numpy())
    other.load_state_dict({name: torch.tensor(a) for name, a in ours.state_dict().items()})


def same_gradients(ours, other, tolerance=1e-11):
    named = dict(other.named_parameters())
    for name, p in ours.named_parameters():
        close(p.grad, named[name].grad, name, tolerance)


@pytest.mark.parametrize(
    ("ours", "other", "shape"),
    [
        (nn.Linear(3, 4), torch.nn.Linear(3, 4, dtype=torch.float64), (2, 5, 3)),
        (nn.Linear(3, 4, bias=False), torch.nn.Linear(3, 4, False, dtype=torch.float64), (3,)),
        (nn.LayerNorm(3), torch.nn.LayerNorm(3, dtype=torch.float64), (2, 5, 3)),
        (nn.LayerNorm((5, 3), 0.1), torch.nn.LayerNorm((5, 3), 0.1, dtype=torch.float64), (5, 3)),
        (
            nn.Sequential(nn.Linear(3, 4), tg.tanh, nn.Linear(4, 2)),
            torch.nn.Sequential(
                torch.nn.Linear(3, 4, dtype=torch.float64),
                torch.nn.Tanh(),
                torch.nn.Linear(4, 2, dtype=torch.float64),
            ),
            (6, 3),
        ),
    ],
)  # fmt: skip
def test_layers(ours, other, shape, rng):
    ours.astype(np.float64)
    for p in other.parameters():
        torch.nn.init.normal_(p)
    both_ways(ours, other)
    agree(ours, other, rng.standard_normal(shape))
    same_gradients(ours, other)


def test_embedding_module(rng):
    ours, other = nn.Embedding(6, 3, padding_idx=-2), torch.nn.Embedding(6, 3, padding_idx=-2)
    both_ways(ours, other)
    ids, w = rng.integers(0, 6, (4, 5)), rng.standard_normal((4, 5, 3))
    y, u = ours(ids), other(torch.tensor(ids))
    close(y, u)
    (y * w).sum().backward()
    (u * torch.tensor(w)).sum().backward()
    same_gradients(ours, other)


@pytest.mark.parametrize("lengths", [None, [5, 2, 4], [3, 5, 1]])
@pytest.mark.parametrize("given_state", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_lstm_module(layers, bidirectional, batch_first, given_state, lengths, rng):
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "bias": layers == 2}
    ours, other = nn.LSTM(3, 4, layers, **options), torch.nn.LSTM(3, 4, layers, **options)
    both_ways(ours, other)
    x = rng.standard_normal((3, 5, 3) if batch_first else (5, 3, 3))
    ways = layers * (2 if bidirectional else 1)
    state = [rng.standard_normal((ways, 3, 4)) for _ in range(2)] if given_state else []

    def run_ours(x, *state):
        y, (h, c) = ours(x, state or None, lengths=lengths)
        return y, h, c

    def run_other(x, *state):
        if lengths is not None:
            x = torch.nn.utils.rnn.pack_padded_sequence(
                x, torch.tensor(lengths), batch_first, enforce_sorted=False
            )
        y, (h, c) = other(x, state or None)
        if lengths is not None:
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first)
        return y, h, c

    agree(run_ours, run_other, x, *state)
    same_gradients(ours, other)


def test_a_tensor_that_numpy_cannot_read_is_named():
    layer, state = nn.Linear(1, 1), torch.nn.Linear(1, 1).state_dict()
    state["bias"] = state["bias"].bfloat16()
    with pytest.raises(ValueError, match=r"wrong: bias cannot be read: .*BFloat16"):
        layer.load_state_dict(state)


# --------------------------------------------------------------------------------- optimizers

OPTIMIZERS = {
    "sgd": (optim.SGD, torch.optim.SGD, {"lr": 0.3}),
    "sgd, decay": (optim.SGD, torch.optim.SGD, {"lr": 0.3, "weight_decay": 0.1}),
    "momentum": (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "nesterov, decay": (
        *(optim.SGD, torch.optim.SGD),
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": (optim.Adam, torch.optim.Adam, {}),
    "adam, decay": (
        *(optim.Adam, torch.optim.Adam),
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adamw": (optim.AdamW, torch.optim.AdamW, {}),
    "adamw, decay": (
        *(optim.AdamW, torch.optim.AdamW),
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.3},
    ),
}
every_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS)


@every_optimizer
def test_fifty_steps_with_gaps_and_two_groups(kind, rng):
    make, other_make, settings = OPTIMIZERS[kind]
    start = [rng.standard_normal(s) for s in ((3, 4), (5,), ())]
    ps = [Tensor(a, requires_grad=True) for a in start]
    ts = [theirs(a) for a in start]
    ours = make([{"params": ps[:2]}, {"params": ps[2], "lr": 0.01}], **settings)
    other = other_make([{"params": ts[:2]}, {"params": ts[2], "lr": 0.01}], **settings)
    for step in range(50):
        for k, (p, t) in enumerate(zip(ps, ts, strict=True)):
            g = rng.standard_normal(p.shape) * 10.0 ** rng.integers(-4, 3)
            p.grad, t.grad = (None, None) if step % 3 == k else (Tensor(g), torch.tensor(g))
        ours.step()
        other.step()
        for p, t in zip(ps, ts, strict=True):
            close(p, t, f"step {step}", 1e-12)


def test_lazy_adam_is_their_sparse_adam(rng):
    start = rng.standard_normal((6, 3))
    p, t = Tensor(start, requires_grad=True), theirs(start)
    # without eps, which they add before v is divided, and we, as in Adam, after
    ours = optim.Adam([p], 0.1, eps=0.0, lazy=True)
    other = torch.optim.SparseAdam([t], 0.1, eps=1e-100)
    for _ in range(20):
        rows = rng.choice(6, 2, replace=False)
        g = np.zeros((6, 3))
        g[rows] = rng.standard_normal((2, 3))
        p.grad = Tensor(g)
        t.grad = torch.sparse_coo_tensor(
            torch.tensor(rows[None]), torch.tensor(g[rows]), (6, 3), check_invariants=True
        )
        ours.step()
        other.step()
        close(p, t)


@pytest.mark.parametrize("max_norm", [0.0, 0.1, 3.0, 1e6])
def test_clipping(max_norm, rng):
    grads = [np.array(rng.standard_normal(s) * 3) for s in ((3, 4), (5,), ())]
    ps = [Tensor(g, requires_grad=True) for g in grads]
    ts = [theirs(g) for g in grads]
    for p, t, g in zip(ps, ts, grads, strict=True):
        p.grad, t.grad = Tensor(g), torch.tensor(g)
    norm, other = optim.clip_grad_norm(ps, max_norm), torch.nn.utils.clip_grad_norm_(ts, max_norm)
    assert float(norm) == pytest.approx(float(other), rel=1e-14)
    for p, t in zip(ps, ts, strict=True):
        close(p.grad, t.grad, tolerance=1e-14)


# ---------------------------------------------------------------------------------- schedules

schedulers = torch.optim.lr_scheduler
SCHEDULES = {
    "LinearLR, up": (
        lambda o: optim.WarmupLinear(o, 8, 20, floor=1.0, start=0.25),
        lambda o: schedulers.LinearLR(o, start_factor=0.25, total_iters=8),
    ),
    "LinearLR, down": (
        lambda o: optim.WarmupLinear(o, 0, 15, floor=0.2),
        lambda o: schedulers.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=15),
    ),
    "CosineAnnealingLR": (
        lambda o: optim.WarmupCosine(o, 0, 20, floor=0.125),
        lambda o: schedulers.CosineAnnealingLR(o, T_max=20, eta_min=0.5 * 0.125),
    ),
    "LinearLR, then CosineAnnealingLR": (
        lambda o: optim.WarmupCosine(o, 5, 20, start=0.1),
        lambda o: schedulers.SequentialLR(
            o,
            [
                schedulers.LinearLR(o, start_factor=0.1, total_iters=5),
                schedulers.CosineAnnealingLR(o, T_max=15),
            ],
            milestones=[5],
        ),
    ),
    "LinearLR, then LinearLR": (
        lambda o: optim.WarmupLinear(o, 5, 17, floor=0.3, start=0.1),
        lambda o: schedulers.SequentialLR(
            o,
            [
                schedulers.LinearLR(o, start_factor=0.1, total_iters=5),
                schedulers.LinearLR(o, start_factor=1.0, end_factor=0.3, total_iters=12),
            ],
            milestones=[5],
        ),
    ),
    "LambdaLR": (
        lambda o: optim.WarmupLinear(o, 4, 18),
        lambda o: schedulers.LambdaLR(
            o, lambda step: step / 4 if step < 4 else max(0.0, (18 - step) / (18 - 4))
        ),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    ours = optim.SGD([Tensor([1.0], requires_grad=True)], 0.5)
    other = torch.optim.SGD([torch.ones(1, requires_grad=True)], 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # SequentialLR calls a deprecated form itself
        make, other_make = SCHEDULES[name]
        schedule, their_schedule = make(ours), other_make(other)
        for step in range(21):
            lr = other.param_groups[0]["lr"]
            assert ours.lr == pytest.approx(lr, rel=1e-12, abs=1e-16), f"step {step}"
            ours.step()
            other.step()
            schedule.step()
            their_schedule.step()


# ------------------------------------------------------------------------------ training curve


class Ours(nn.Module):
    """Embedding, LSTM in both directions, attention of two heads, mean pooling, linear."""

    def __init__(self):
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.rnn = nn.LSTM(6, 4, bidirectional=True)
        self.qkv = nn.Linear(8, 24)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, ids, lengths):
        real = ids != 0
        y, _ = self.rnn(self.embedding(ids), lengths=lengths)
        heads = self.qkv(y).reshape(*ids.shape, 3, 2, 4).transpose(2, 0, 3, 1, 4)
        a = tg.scaled_dot_product_attention(*heads, mask=real[:, None, None])
        a = self.norm(a.swapaxes(1, 2).reshape(*ids.shape, 8) + y)
        return self.fc((a * real[..., None]).sum(axis=1) / lengths[:, None].astype(float))


class Other(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 6, padding_idx=0)
        self.rnn = torch.nn.LSTM(6, 4, bidirectional=True, batch_first=True)
        self.qkv = torch.nn.Linear(8, 24)
        self.norm = torch.nn.LayerNorm(8)
        self.fc = torch.nn.Linear(8, 3)

    def forward(self, ids, lengths):
        real = ids != 0
        x = torch.nn.utils.rnn.pack_padded_sequence(
            self.embedding(ids), lengths, batch_first=True, enforce_sorted=False
        )
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(
            self.rnn(x)[0], batch_first=True, total_length=ids.shape[1]
        )
        heads = self.qkv(y).reshape(*ids.shape, 3, 2, 4).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(*heads, attn_mask=real[:, None, None])
        a = self.norm(a.transpose(1, 2).reshape(*ids.shape, 8) + y)
        return self.fc((a * real[..., None]).sum(dim=1) / lengths[:, None])


CURVES = {
    "sgd": (optim.SGD, torch.optim.SGD, {"lr": 0.3, "weight_decay": 1e-3}),
    "nesterov": (optim.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (optim.Adam, torch.optim.Adam, {"lr": 0.02, "weight_decay": 1e-3}),
    "adamw": (optim.AdamW, torch.optim.AdamW, {"lr": 0.02}),
}


@pytest.mark.parametrize("kind", CURVES)
def test_training_curves(kind, rng):
    make, other_make, settings = CURVES[kind]
    ours, other = Ours(), Other()
    both_ways(ours, other)
    optimizer = make(ours.parameters(), **settings)
    their_optimizer = other_make(other.parameters(), **settings)
    schedule = optim.WarmupCosine(optimizer, 10, 50, start=0.1)
    weight = np.array([1.0, 2.0, 0.5])
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        their_schedule = schedulers.SequentialLR(
            their_optimizer,
            [
                schedulers.LinearLR(their_optimizer, start_factor=0.1, total_iters=10),
                schedulers.CosineAnnealingLR(their_optimizer, T_max=40),
            ],
            milestones=[10],
        )
        for step in range(50):
            lengths = rng.integers(1, 8, 16)
            ids = rng.integers(1, 20, (16, 7)) * (np.arange(7) < lengths[:, None])
            targets = ids.max(axis=1) % 3
            ours.zero_grad()
            loss = tg.cross_entropy(ours(ids, lengths), targets, weight=weight, label_smoothing=0.1)
            loss.backward()
            norm = optim.clip_grad_norm(ours.parameters(), 0.5)
            optimizer.step()
            schedule.step()

            other.zero_grad()
            logits = other(torch.tensor(ids), torch.tensor(lengths))
            their_loss = F.cross_entropy(
                logits, torch.tensor(targets), torch.tensor(weight), label_smoothing=0.1
            )
            their_loss.backward()
            their_norm = torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
            their_optimizer.step()
            their_schedule.step()

            losses.append(loss.item())
            assert loss.item() == pytest.approx(their_loss.item(), rel=1e-9), f"step {step}"
            assert float(norm) == pytest.approx(float(their_norm), rel=1e-9), f"step {step}"
    state = other.state_dict()
    for name, a in ours.state_dict().items():
        np.testing.assert_allclose(a, state[name].numpy(), rtol=1e-9, atol=1e-9, err_msg=name)
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])  # it did learn something
