"""Mistakes that other projects made, where no other file would notice them; and PITFALLS.md itself.

PITFALLS.md beside this file lists the mistakes, and for each the tests that would catch it here.
"""

import ast
import configparser
import contextvars
import copy
import gc
import re
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cases import CASES
from hypothesis import given, settings
from words import leaf

import tinygrad_mha as tg
from tinygrad_mha import GradientError, Tensor, gradcheck, nn
from tinygrad_mha.models import MultiHeadAttention, TextClassifier
from tinygrad_mha.models import train as training
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.text import Vocabulary
from tinygrad_mha.models.train import Settings, split
from tinygrad_mha.models.trained import TrainedClassifier, build_model
from tinygrad_mha.tensor import Node, history

ROOT = Path(__file__).parents[1]
PACKAGE = [*(ROOT / "tinygrad_mha").rglob("*.py"), *(ROOT / "models").rglob("*.py")]
rng = np.random.default_rng(0)


# ------------------------------------------------------------------------------- PITFALLS.md


def rows():
    """(mistake, rule, names of tests) for each row of the table."""
    text = (Path(__file__).parent / "PITFALLS.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]  # not its head
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [(a, b, re.findall(r"`([\w/.]+\.py)::(\w+)`", tests)) for a, b, tests in cells]


def test_every_row_names_tests_that_exist():
    table = rows()
    assert len(table) >= 30
    named = {}
    for mistake, rule, tests in table:
        assert mistake
        assert rule
        assert tests, f"no test: {mistake}"
        for file, test in tests:
            named.setdefault(file, set()).add(test)
    for file, tests in named.items():
        tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert tests <= there, f"{file} has no {', '.join(sorted(tests - there))}"


# ------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "steep", [tg.log, tg.sqrt, lambda x: 1.0 / x, lambda x: tg.tanh(tg.log(x)) * x]
)
def test_an_element_that_is_masked_out_poisons_no_shared_weight(steep):
    """0 · inf and 0 · NaN are NaN, and w stands behind all elements; at order 2 too."""
    data = np.array([0.0, -1.0, 2.0, 0.5])
    g, taken = np.arange(1.0, 5.0), data > 0

    def gradient(rows, w, create_graph):
        y = tg.masked_fill(steep(w * data[rows]), ~taken[rows], value=0.0)
        return tg.grad(y, [w], g[rows], create_graph=create_graph)[0]

    everything, live = slice(None), slice(2, None)
    w = leaf(1.5)
    with np.errstate(all="ignore"):
        for create_graph in (False, True):
            got, want = (gradient(rows, w, create_graph) for rows in (everything, live))
            assert got.item() == pytest.approx(want.item(), rel=1e-12)
        again = [tg.grad(d, [w])[0].item() for d in (got, want)]
    assert again[0] == pytest.approx(again[1], rel=1e-12)


def test_a_sigmoid_is_not_cut_off():
    """Inputs clipped to ±20 would lose the gradient, which is small there but not zero."""
    x = leaf([-30.0, -21.0, 21.0])
    np.testing.assert_allclose(tg.sigmoid(x).numpy()[:2], np.exp([-30, -21]), rtol=1e-2)
    (dx,) = tg.grad(tg.sigmoid(x).sum(), [x])
    np.testing.assert_allclose(dx.numpy(), np.exp([-30.0, -21.0, -21.0]), rtol=1e-2)


# ------------------------------------------------------------------------------------- the graph


def test_gradients_stay_on_the_leaves():
    """A gradient left on an intermediate result would be added again by the next backward pass."""
    x = leaf([2.0])
    y = x * x
    z = tg.exp(y)
    for times in (1, 2):
        (z * y).sum().backward(retain_graph=True)
        assert y.grad is None
        assert z.grad is None
        assert x.grad.item() == pytest.approx(times * 4 * np.exp(4) * (1 + 4))


def test_what_walks_a_long_graph_does_not_recurse():
    """Beside backward, which has a test of its own: printing, copying, listing."""
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = y * 1.0
    assert repr(y) == "Tensor(1., op=mul)"
    assert copy.copy(y).item() == copy.deepcopy(y).item() == 1.0
    assert len(history([y])) == 20_000


MODELS = {
    "LSTM": (lambda: nn.LSTM(4, 3, 2, bidirectional=True), lambda m, x: m(x)[0]),
    "attention": (lambda: MultiHeadAttention(2, 4, 2, 2), lambda m, x: m(x)),
    "classifier": (
        lambda: TextClassifier(9, 4, 2, h=2),
        lambda m, x: m(np.array([[1, 2, 3], [4, 5, 0]])),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_keeps_nothing_of_a_forward_pass(name):
    """A layer that remembers its state or its weights' picture keeps the whole graph with it."""
    make, call = MODELS[name]
    model, x = make(), leaf(rng.standard_normal((2, 3, 4)), np.float32)
    call(model, x)
    gc.collect()
    gc.disable()
    try:
        loss = (call(model, x) * 1.0).sum()
        seen = [weakref.ref(t) for t in history([loss])]
        logged = [loss.item(), float(loss), f"{loss:.3f}"]
        del loss
        assert [r() for r in seen if r() is not None] == []
        assert len(logged) == 3
    finally:
        gc.enable()


def sentences(n=60):
    labels = ["xy"[k % 2] for k in range(n)]
    texts = [f"{'red' if c == 'x' else 'two'} {k}" for k, c in enumerate(labels)]
    return Dataset(texts, labels, list(range(1, n + 1)), "d.csv")


def test_training_leaves_no_graph_behind(monkeypatch):
    """The losses that add up are numbers: one kept as a Tensor would keep its step alive."""
    alive, step = [], training.Run.train_step

    def nodes():
        return sum(type(o) is Node for o in gc.get_objects())

    def spy(*args):
        said = step(*args)
        alive.append(nodes())
        return said

    gc.collect()
    before = nodes()  # what other tests have left in their modules
    monkeypatch.setattr(training.Run, "train_step", spy)
    small = Settings(d_model=8, h=2, batch_size=16, workers=1, epochs=2)
    trained = training.train(split(sentences()), small)
    assert len(alive) > 4
    assert max(alive) <= before
    assert all(p.node is None for p in trained.model.parameters())


def test_nothing_writes_into_a_tensor():
    """No ``x += 1`` in place and no ``x[0] = 1``: what backward has saved stays what it was."""
    in_place = re.compile(r"__i(?!nit|nvert|nt|ndex|ter)\w+__|__setitem__")
    assert [name for name in dir(Tensor) if in_place.fullmatch(name)] == []
    x = leaf([1.0, 2.0])
    kept, y = x, x * x
    x += 1.0
    assert x is not kept
    assert kept.numpy().tolist() == [1, 2]
    y.sum().backward()
    assert kept.grad.numpy().tolist() == [2, 4]
    with pytest.raises(TypeError, match="item assignment"):
        kept[0] = 5.0


# ------------------------------------------------------------------------------ the certificate


@pytest.mark.parametrize("order", [1, 2])
def test_a_softmax_without_a_gradient_does_not_pass(order):
    """The gradient of softmax(x).sum() is zero: a check that sends ones would be content."""

    @tg.fused(reference=tg.softmax.reference, registry={})
    def lazy(x, *, axis=-1):
        y, _ = tg.softmax.forward(x, axis=axis)
        return y, lambda g: (0 * g,)

    with pytest.raises(GradientError, match="no gradient arrives"):
        gradcheck(lazy, [rng.standard_normal((2, 3))], order=order)


@pytest.mark.parametrize("share", [1e-3, 1e-4])
def test_small_mistakes_do_not_pass(share):
    """A part in a thousand, which a tolerance of 1e-2 would let through."""

    @tg.primitive(lambda g, y, x: g * y * (1 + share), registry={})
    def almost(x):
        return np.exp(x)

    with pytest.raises(GradientError):
        gradcheck(almost, [rng.standard_normal(3)])


@pytest.mark.parametrize("name", sorted(CASES))
def test_drawn_numbers_are_tame(name):
    """Finite or -inf on purpose, no denormals, nothing huge: no failure that is only rounding."""

    @settings(max_examples=max(3, settings().max_examples // 5))
    @given(CASES[name])
    def check(case):
        args, params = case
        for a in [*args, *params.values()]:
            if isinstance(a, np.ndarray) and a.dtype.kind == "f":
                assert a.dtype == np.float64
                size = np.abs(a[a > -np.inf])
                assert ((size == 0) | ((size >= 1e-3 - 1e-12) & (size <= 100))).all()

    check()


def test_properties_have_no_deadline_and_are_the_same_for_everybody():
    """A slow machine is no failure; and, unless asked to explore, a red run is red everywhere."""
    for name in ("default", "ci", "long"):
        assert settings.get_profile(name).deadline is None
    assert settings.get_profile("default").derandomize
    assert settings.get_profile("ci").derandomize


# ------------------------------------------------------------------------------------- the layers


@pytest.mark.parametrize("reverse", [False, True])
def test_the_weights_of_an_lstm_are_joined_once_not_at_every_step(reverse, monkeypatch):
    """No more copies for fifty steps than for two, forward and backward."""
    joined, concatenate = [], np.concatenate

    def spy(parts, *args, **kwargs):
        joined.append(1)
        return concatenate(parts, *args, **kwargs)

    def count(steps):
        args = [rng.standard_normal(s) for s in ((steps, 2, 3), (2, 2), (2, 2), (8, 3), (8, 2))]
        xs = [Tensor(a, requires_grad=True) for a in args]
        joined.clear()
        y, _, _ = tg.lstm(*xs, reverse=reverse)
        tg.grad(y.sum(), xs)
        return len(joined)

    for name in ("concatenate", "hstack", "vstack", "stack"):
        monkeypatch.setattr(np, name, spy if name == "concatenate" else partial(pytest.fail, name))
    assert count(2) == count(50) > 0


def test_what_is_recomputed_is_dropped_alike():
    """Without a seed too: the recorded backward pass plays the op again, with the same mask."""
    x = leaf(rng.standard_normal((6, 8)) + 3)
    y = tg.dropout(x, 0.5)
    state = tg.dropout(x, 0.5)  # another call in between draws another mask
    assert ((y.data == 0) != (state.data == 0)).any()
    (dx,) = tg.grad(y, [x], np.ones((6, 8)), create_graph=True)
    np.testing.assert_allclose(dx.numpy(), y.numpy() / x.data)
    q, k, v = (leaf(rng.standard_normal((5, 4, 3))) for _ in range(3))
    y = tg.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    g = rng.standard_normal(y.shape)
    plain, recorded = (tg.grad(y, [q, k, v], g, create_graph=flag) for flag in (False, True))
    for d, e in zip(plain, recorded, strict=True):
        np.testing.assert_allclose(d.numpy(), e.numpy(), rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------- devices, files, packages


def names_used(path):
    """Every module, name and attribute that a file mentions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (part for a in node.names for part in a.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.keyword):
            yield node.arg


def using(forbidden):
    return [f"{p.name}: {n}" for p in PACKAGE for n in sorted({*names_used(p)} & forbidden)]


def test_no_file_is_read_that_could_run_code():
    """Models are safetensors and JSON. A pickle is a program, and breaks when a class moves."""
    loaders = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
    assert using(loaders | {"allow_pickle", "torch"}) == []


def test_scatter_add_is_not_asked_of_cupy():
    """It went from cupy to cupyx, where it is deprecated: ``xp.add.at`` is on both sides."""
    assert using({"scatter_add"}) == []
    assert using({"cupyx"}) == ["backend.py: cupyx"]  # what adds up the arrays of several GPUs


def test_only_one_file_imports_cupy():
    """And that one inside a function: who has no GPU never gets there."""
    assert [p.name for p in PACKAGE if "cupy" in names_used(p)] == ["backend.py"]
    for path in PACKAGE:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        at_the_top = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not any("cupy" in ast.unparse(n) for n in at_the_top)


def test_installing_brings_four_packages_and_no_framework():
    """No autograd, no pyarrow, no torch: all else is an extra that one asks for by name."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    wanted = setup["options"]["install_requires"].split()
    names = [re.match(r"[\w-]+", w)[0] for w in wanted]
    assert names == ["numpy", "tqdm", "threadpoolctl", "safetensors"]
    assert setup["metadata"]["name"] == "tinygrad_mha"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "nothing to do with the project tinygrad" in readme


def test_the_default_device_outlives_the_context_that_chose_it(cupy, monkeypatch):
    """Kept in a context variable, it would be forgotten in the next cell of a notebook."""
    monkeypatch.setattr(tg.backend, "_default_device", None)
    contextvars.copy_context().run(tg.set_default_device, "cuda")
    assert Tensor([1.0]).device == "cuda:0"
    host = Tensor([1.0], device="cpu")  # and a Tensor's own device wins over the flag
    assert (host * 2.0).device == "cpu"
    assert nn.Linear(2, 1).weight.device == "cuda:0"


@pytest.mark.parametrize("how", ["transposed", "strided", "reversed"])
def test_weights_in_any_memory_order_are_saved_as_they_look(tmp_path, how):
    """Written as it lies in memory, a transposed weight comes back with its numbers shuffled."""
    trained = a_classifier()
    for p in trained.model.parameters():
        p.data = np.asarray(rng.standard_normal(p.shape), np.float32)
        wide = np.repeat(p.data, 2, axis=-1)[..., ::2]
        p.data = {
            "transposed": p.data.T.copy().T,
            "strided": wide,
            "reversed": np.flip(np.flip(p.data).copy()),
        }[how]
    assert any(not p.data.flags.c_contiguous for p in trained.model.parameters())
    trained.save(tmp_path / "model")
    again = TrainedClassifier.load(tmp_path / "model")
    for (name, p), q in zip(
        trained.model.named_parameters(), again.model.parameters(), strict=True
    ):
        np.testing.assert_array_equal(p.data, q.data, err_msg=name)
    np.testing.assert_array_equal(*(t.predict_proba(["red two", "red"]) for t in (trained, again)))


def test_a_model_stays_where_it_is_when_it_is_saved(tmp_path, cupy):
    trained = a_classifier()
    trained.model.to("cuda")
    trained.save(tmp_path / "model")
    assert all(p.device == "cuda:0" for p in trained.model.parameters())
    assert all(p.device == "cpu" for p in a_classifier().model.parameters())
    again = TrainedClassifier.load(tmp_path / "model")
    for p, q in zip(trained.model.parameters(), again.model.parameters(), strict=True):
        assert q.device == "cpu"
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def a_classifier():
    """One that was not trained."""
    shape = {"d_model": 8, "h": 2, "num_layers": 1, "bidirectional": True, "dropout": 0.0}
    config = {**shape, "pooling": "mean", "level": "word", "max_len": 9, "training": {}}
    words = Vocabulary(["red", "two"])
    return TrainedClassifier(build_model(config, len(words), 2), words, ["x", "y"], config)
