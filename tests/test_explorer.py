"""The explorer: what it records is what happened, and the page shows it to a real browser."""

import json
import re
import threading

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha import nn, tensor
from tinygrad_mha.models import TextClassifier, cli
from tinygrad_mha.study import explorer, numeric, trace, typeset, views
from tinygrad_mha.study.summary import FULL, summary


def classifier(steps=1, lr=0.0, **more):
    """A trace of a small text classifier's training; the model."""
    tg.manual_seed(0)
    model = TextClassifier(20, 8, 3, h=2, dropout=0.0, **more)
    ids = np.array([[5, 7, 2, 8, 4], [9, 3, 11, 0, 0]])
    optimizer = tg.optim.SGD(model.parameters(), lr=lr)
    with tg.trace() as t:
        for _ in range(steps):
            loss = tg.cross_entropy(model(ids), np.array([0, 2]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return t, model, ids


def values(data, at):
    a = data["arrays"][at]
    return np.array(a["values"], float).reshape(a["shape"])


def ops(data):
    return [c["op"] for c in data["calls"]]


# ---------------------------------------------------------------------------------- summaries


@pytest.mark.parametrize(
    "a",
    [
        np.zeros((0, 3)), np.array(2.5), np.array([True, False]), np.arange(6).reshape(2, 3),
        np.array([np.nan, np.inf, -np.inf, 1.0]), np.full((5, 4), 1e300), np.zeros((3, 3)),
        np.float32([[1e-40, 2]]),
    ],
)  # fmt: skip
def test_small_arrays_are_told_in_full(a):
    s = json.loads(json.dumps(summary(a), allow_nan=False))
    assert (s["shape"], s["dtype"]) == (list(a.shape), str(a.dtype))
    said = np.array([float(x) for x in s["values"]])
    np.testing.assert_allclose(said, a.astype(float).reshape(-1), rtol=1e-4)
    finite = a[np.isfinite(a)].astype(float)
    assert s["odd"] == a.size - finite.size
    if finite.size:
        big = abs(finite).max() or 1
        want = (finite.min(), finite.max(), finite.mean(), (finite / big).std() * big)
        np.testing.assert_allclose(s["range"], want, rtol=1e-4, atol=1e-300)
        np.testing.assert_allclose(s["norm"], np.linalg.norm(finite / big) * big, rtol=1e-4)


def decoded(h):
    import base64

    cells = np.frombuffer(base64.b64decode(h["cells"]), np.uint8).reshape(h["rows"], h["columns"])
    return (cells.astype(float) - 127) / 127 * float(h["full"])


@pytest.mark.parametrize("shape", [(65,), (3, 50), (7, 5, 30), (100, 1), (2, 3, 4, 5)])
def test_large_arrays_are_told_by_blocks(shape):
    a = np.random.default_rng(0).standard_normal(shape)
    s = summary(a, cells=8)
    assert a.size > FULL
    assert "values" not in s
    assert sum(s["histogram"]) == a.size
    table = a.reshape(-1, shape[-1])
    rows, columns = (np.array_split(np.arange(n), min(n, 8)) for n in table.shape)
    # blocks may be cut elsewhere by one: the edges are those of k n / 8
    rows, columns = (
        [np.arange(k * n // c, (k + 1) * n // c) for k in range(c)]
        for n, c in zip(table.shape, (len(rows), len(columns)), strict=True)
    )
    want = np.array([[table[np.ix_(r, c)].mean() for c in columns] for r in rows])
    np.testing.assert_allclose(decoded(s["heat"]), want, atol=abs(want).max() / 120)


# -------------------------------------------------------------------------------- what is recorded


def test_numbers_are_those_of_the_computation():
    a = tg.Tensor(np.array([1.0, -2.0, 0.5]), requires_grad=True)
    b = tg.Tensor(np.array(3.0), requires_grad=True)
    g = np.array([0.3, -0.2, 1.5])
    with tg.trace() as t:
        y = tg.sin(a * b)
        y.backward(g)
    d = t.data
    assert ops(d) == ["mul", "sin"]
    assert d["order"] == [1, 0]
    assert d["root"] == (1, 0)
    product, sine = d["calls"]
    x = a.numpy() * 3
    np.testing.assert_allclose(values(d, product["outputs"][0]), x, rtol=1e-4)
    np.testing.assert_allclose(values(d, sine["outputs"][0]), np.sin(x), rtol=1e-4)
    np.testing.assert_allclose(values(d, sine["g"][0]), g, rtol=1e-4)
    np.testing.assert_allclose(values(d, sine["ds"][0]), g * np.cos(x), rtol=1e-4)
    np.testing.assert_allclose(values(d, product["g"][0]), g * np.cos(x), rtol=1e-4)
    by_kind = {leaf["name"]: leaf for leaf in d["leaves"]}
    assert by_kind.keys() == {"a", "b"}  # what the variables are called
    for name, x in {"a": a, "b": b}.items():
        leaf = by_kind[name]
        np.testing.assert_allclose(values(d, leaf["values"]), x.numpy(), rtol=1e-4)
        np.testing.assert_allclose(values(d, leaf["gradient"]), x.grad.numpy(), rtol=1e-4)
    assert sine["inputs"] == [{"name": "x", "call": 0, "output": 0}]
    assert [i["name"] for i in product["inputs"]] == ["a", "b"]
    assert "y = tg.sin(a * b)" in sine["line"]
    assert "test_explorer.py" in sine["line"]


def test_nothing_is_changed_by_looking_on():
    plain = [p.copy() for p in run_plain(3)]
    t, model, _ = classifier(3, lr=0.1)
    for p, q in zip(plain, model.parameters(), strict=True):
        np.testing.assert_array_equal(p, q.numpy())
    assert len(t.recorder.passes) == 3


def run_plain(steps):
    tg.manual_seed(0)
    model = TextClassifier(20, 8, 3, h=2, dropout=0.0)
    ids = np.array([[5, 7, 2, 8, 4], [9, 3, 11, 0, 0]])
    optimizer = tg.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        loss = tg.cross_entropy(model(ids), np.array([0, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [p.numpy() for p in model.parameters()]


def test_calls_belong_to_the_runs_of_modules_and_functions():
    class Block(nn.Module):
        def __init__(self):
            self.layers = [nn.Linear(3, 3), nn.Linear(3, 3)]

        def forward(self, x):
            for layer in (*self.layers, self.layers[0]):  # the first one runs twice
                x = helper(layer(x))
            return x

    def helper(x):
        return tg.tanh(x * 2.0)

    with tg.trace() as t:
        Block()(tg.Tensor(np.ones((2, 3), np.float32))).sum().backward()
    d = t.data
    names = [
        (g["name"], g["kind"], d["groups"][g["parent"]]["name"] if g["parent"] >= 0 else "")
        for g in d["groups"]
    ]
    layer0, layer1 = (f"layers.{k}" for k in range(2))
    assert names == [
        ("Block", "Block", ""),
        (layer0, "Linear", "Block"), ("helper", "function", "Block"),
        (layer1, "Linear", "Block"), ("helper", "function", "Block"),
        (layer0, "Linear", "Block"), ("helper", "function", "Block"),
    ]  # fmt: skip
    assert ops(d) == [*["linear", "mul", "tanh"] * 3, "sum"]
    assert [c.get("group", -1) for c in d["calls"]] == [1, 2, 2, 3, 4, 4, 5, 6, 6, -1]
    assert {x["name"] for x in d["leaves"] if x["kind"] == "parameter"} == {
        f"layers.{k}.{n}" for k in range(2) for n in ("weight", "bias")
    }
    # a run is one stretch of time, so that a box never waits for what is outside of it
    runs = [c.get("group", -1) for c in d["calls"]]
    for g in set(runs):
        inside = [k for k, r in enumerate(runs) if r == g]
        assert inside == list(range(inside[0], inside[-1] + 1))


def test_every_gradient_of_a_classifier_is_measured():
    t, model, _ = classifier()
    checks = [c for call in t.data["calls"] for c in call.get("checks", []) if c]
    assert len(checks) > 30
    assert all(c["fine"] for c in checks)
    assert repr(t).endswith("gradients measured, all right>")
    first = t.data["calls"][0]
    assert first["op"] == "embedding"
    assert len(checks[0]["steps"]) == len(numeric.STEPS)
    grads = {p: n for n, p in model.named_parameters()}
    told = {x["name"]: x for x in t.data["leaves"] if x["kind"] == "parameter"}
    assert told.keys() == set(grads.values())
    for p, name in grads.items():
        want = float(np.linalg.norm(p.grad.numpy().astype(float)))
        assert t.data["arrays"][told[name]["gradient"]]["norm"] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("rule", ["zero", "half", "other"])
def test_a_wrong_rule_is_seen(rule):
    rules = {
        "zero": lambda g, y, x: g * 0.0,
        "half": lambda g, y, x: g * x,
        "other": lambda g, y, x: g * y,
    }

    @tg.primitive(rules[rule], registry={})
    def square(x):
        return x * x

    x = tg.Tensor(np.random.default_rng(0).standard_normal((3, 4)), requires_grad=True)
    with tg.trace() as t:
        (square(x) * 2.0).sum().backward()
    verdicts = [[k["fine"] for k in c["checks"] if k] for c in t.data["calls"] if "checks" in c]
    assert verdicts == [[False], [True], [True]]
    assert repr(t).endswith("; 3 gradients measured, NOT RIGHT: square>")
    x = x.numpy()
    call = t.data["calls"][0]
    [told] = call["checks"]
    g = np.full((3, 4), 2.0)
    np.testing.assert_allclose(np.array(told["each"]), (g * 2 * x).reshape(-1), rtol=1e-4)


def test_the_steps_of_the_differences_make_a_v():
    x = np.random.default_rng(0).standard_normal((5, 3))
    g = np.random.default_rng(1).standard_normal((5, 3))
    exp = tg.REGISTRY["exp"]
    [told] = numeric.measure(exp, [x], {}, g, [g * np.exp(x)], [True])
    wrong = told["errors"]
    assert wrong[0] > 1e-4  # the step is too long
    assert min(wrong) < 1e-8
    assert max(wrong[-2:]) > 1e-6  # too short: rounding, which may be lucky once
    assert wrong[5] == told["error"]
    size = max(abs(g * np.exp(x)).max(), abs(told["analytic"]))
    for value, e in zip(told["steps"], wrong, strict=True):
        assert e == pytest.approx(abs(value - told["analytic"]) / size, rel=3, abs=2e-5)


def test_what_is_not_finite_is_not_called_wrong():
    x = tg.Tensor(np.array([1.0, -4.0]), requires_grad=True)
    with tg.trace() as t, np.errstate(all="ignore"):
        (tg.log(x) * 2.0).sum().backward()
    assert "NOT RIGHT" not in repr(t)
    assert "not finite" in repr(t)
    json.dumps(t.data, allow_nan=False)


def test_what_a_certificate_computes_is_not_in_the_picture():
    x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    with tg.trace() as t:
        tg.gradcheck(tg.exp, [np.array([1.0, 2.0])], order=2)
        (x * x).sum().backward()
    assert ops(t.data) == ["mul", "sum"]
    assert len(t.data["passes"]) == 1


def test_a_call_that_is_not_smooth_is_not_called_right():
    x, g = np.array([0.0, 1.0]), np.array([1.0, 1.0])
    [told] = numeric.measure(tg.REGISTRY["relu"], [x], {}, g, [np.array([1.0, 1.0])], [True])
    assert not told["fine"]


# ------------------------------------------------------------------------- references, opened


def test_a_fused_op_opens_into_its_reference_on_the_same_numbers():
    rng = np.random.default_rng(0)
    x = tg.Tensor(rng.standard_normal((2, 4)), requires_grad=True)
    w = tg.Tensor(rng.standard_normal(4), requires_grad=True)
    with tg.trace() as t:
        y = tg.layer_norm(x, w)
        y.backward(rng.standard_normal((2, 4)))
    d = t.data
    [call] = d["calls"]
    inner = d["inside"][call["inside"]]
    assert {"sub", "div", "sqrt", "mul"} <= set(ops(inner))
    last, out = inner["root"]
    np.testing.assert_allclose(
        values(inner, inner["calls"][last]["outputs"][out]), y.numpy(), rtol=1e-4
    )
    told = {leaf["name"]: leaf for leaf in inner["leaves"]}
    for name, t_ in (("x", x), ("weight", w)):
        np.testing.assert_allclose(
            values(inner, told[name]["gradient"]), t_.grad.numpy(), rtol=1e-3, atol=1e-6
        )
    assert all("layernorm.py" in c["line"] for c in inner["calls"])
    assert all(k["fine"] for c in inner["calls"] for k in c.get("checks", []) if k)
    assert "inside" not in t.data["inside"][0]["calls"][0]


def test_every_fused_op_can_be_opened():
    for op in tg.REGISTRY.values():
        if op.reference is None:
            continue
        args, params = op.sample(np.random.default_rng(0))
        xs = [tg.Tensor(a, requires_grad=True) if tensor.is_floating(a) else a for a in args]
        with tg.trace() as t:
            y = op(*xs, **params)
            y = y[0] if isinstance(y, tuple) else y
            y.backward(np.random.default_rng(1).standard_normal(y.shape))
        d = t.data
        assert d["calls"][0]["op"] == op.name
        assert d["calls"][0].get("inside") == 0, op.name
        assert d["inside"][0]["calls"], op.name
        checks = [k for c in d["calls"] for k in c["checks"] if k]
        assert checks, op.name
        assert all(k["fine"] for k in checks), op.name


def test_a_reference_that_is_too_long_stays_closed(monkeypatch):
    monkeypatch.setattr(trace, "OPENED", 20)
    t, _, _ = classifier()
    lstm = next(c for c in t.data["calls"] if c["op"] == "lstm")
    assert "inside" not in lstm
    assert any("inside" in c for c in t.data["calls"])


# ------------------------------------------------------------------------------- unusual cases


def test_a_graph_that_was_there_before():
    x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    h = tg.tanh(x * 3.0)
    with tg.trace() as t:
        (h * h).sum().backward()
    d = t.data
    assert sorted(ops(d)) == ["mul", "mul", "sum", "tanh"]
    assert len(d["order"]) == 4
    tanh = next(c for c in d["calls"] if c["op"] == "tanh")
    np.testing.assert_allclose(values(d, tanh["outputs"][0]), np.tanh([3, 6]), rtol=1e-4)


def test_one_of_several_outputs_that_were_there_before():
    x = tg.Tensor(np.arange(4.0), requires_grad=True)
    b = tg.split(x, 2)[1]
    with tg.trace() as t:
        (b * b).sum().backward()
    d = t.data
    split = next(c for c in d["calls"] if c["op"] == "split")
    assert split["outputs"][0] is None
    np.testing.assert_array_equal(values(d, split["outputs"][1]), [2, 3])
    assert split["g"][0] is None


def test_a_function_that_is_called_forward():
    def forward(x):
        return tg.exp(layer(x))

    layer = nn.Linear(2, 2)
    x = tg.Tensor(np.ones((1, 2), np.float32))
    with tg.trace() as t:
        forward(x).sum().backward()
    assert [(g["name"], g["kind"]) for g in t.data["groups"]] == [
        ("forward", "function"), ("Linear", "Linear"),
    ]  # fmt: skip


def test_forward_alone():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    with tg.trace() as t:
        y = (x * x).sum()
    d = t.data
    assert (ops(d), d["order"], d["root"]) == (["mul", "sum"], [], None)
    y.backward()  # the graph is untouched
    np.testing.assert_array_equal(x.grad.numpy(), [2, 4])


def test_branches_without_a_gradient_are_there_too():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    with tg.trace() as t:
        tg.exp(x)
        (x * x).sum().backward()
    assert ["step" in c for c in t.data["calls"]] == [False, True, True]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_the_pass_that_is_asked_for(step):
    x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    with tg.trace(step) as t:
        for k in range(3):
            (x * float(k + 1)).sum().backward()
    d = t.data
    assert ops(d) == ["mul", "sum"]
    [leaf] = [leaf for leaf in d["leaves"] if leaf["kind"] == "input"]
    np.testing.assert_array_equal(values(d, leaf["gradient"]), [step + 1] * 2)
    assert len(d["passes"]) == 3
    with pytest.raises(ValueError, match="step -1"):
        tg.trace(-1)


def test_gradients_of_gradients():
    x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    with tg.trace(1) as t:
        [dx] = tg.grad((x**3).sum(), [x], create_graph=True)
        dx.sum().backward()
    d = t.data
    assert len(d["order"]) >= 3
    assert all(k["fine"] for c in d["calls"] for k in c.get("checks", []) if k)
    np.testing.assert_allclose(x.grad.numpy(), [6, 12])


def test_several_outputs_checkpoints_and_shared_inputs():
    x = tg.Tensor(np.array([[1.0, 2.0, 3.0, 4.0]]), requires_grad=True)
    with tg.trace() as t:
        a, b = tg.split(x, 2, axis=1)
        y = tg.checkpoint(lambda a: tg.tanh(a) * a, a)
        (y * b * b).sum().backward()
    d = t.data
    assert "checkpoint" in ops(d)
    checks = [k for c in d["calls"] for k in c.get("checks", []) if k]
    assert checks
    assert all(k["fine"] for k in checks)
    html = t.html()
    assert "checkpoint" in html


def test_other_threads_and_modes():
    x = tg.Tensor([1.0], requires_grad=True)
    with tg.trace() as t:
        other = threading.Thread(target=lambda: (tg.exp(x) * 2.0).sum().backward())
        other.start()
        other.join()
        with tg.no_grad():
            tg.sin(x)
        (x * x).sum().backward()
    assert ops(t.data) == ["mul", "sum"]
    with tg.trace() as outer, tg.detect_anomaly():
        (x * x).sum().backward()
    assert ops(outer.data) == []
    assert repr(outer) == "<trace of nothing>"
    assert "nothing was recorded" in outer.html()


def test_what_was_recorded_before_an_exception_is_there():
    x = tg.Tensor([1.0], requires_grad=True)
    t = tg.trace()

    def broken():
        with t:
            return x * 2.0 / (1 // 0)

    with pytest.raises(ZeroDivisionError):
        broken()
    assert ops(t.data) == ["mul"]
    (x * x).sum().backward()  # nobody looks any more
    assert ops(t.data) == ["mul"]


def test_on_the_device(cupy, float64):
    tg.manual_seed(0)
    layer = nn.LSTM(3, 4, batch_first=True).to("cuda")
    x = tg.Tensor(np.random.default_rng(0).standard_normal((2, 5, 3)), device="cuda")
    with tg.trace() as t:
        y, _ = layer(x)
        (y * y).sum().backward()
    d = t.data
    checks = [k for c in d["calls"] for k in c.get("checks", []) if k]
    assert checks
    assert all(k["fine"] for k in checks)
    assert d["views"]["lstm"][0]["steps"] == 5
    json.dumps(d, allow_nan=False)


def test_arrays_are_let_go():
    import gc
    import weakref

    x = tg.Tensor(np.ones(5), requires_grad=True)
    with tg.trace() as t:
        y = x * 2.0
        y.sum().backward()
    there = weakref.ref(y)
    del y
    gc.collect()
    assert there() is None
    assert ops(t.data) == ["mul", "sum"]


# ------------------------------------------------------------------------------------- the views


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_over_time_are_those_of_finite_differences(float64, reverse):
    rng = np.random.default_rng(0)
    count, n = 4, 3
    arrays = [
        rng.standard_normal(s)
        for s in ((count, 1, 2), (1, n), (1, n), (4 * n, 2), (4 * n, n), (4 * n,), (4 * n,))
    ]
    g = rng.standard_normal((count, 1, n))
    params = {"lengths": None, "reverse": reverse}
    [view] = views.lstm_view(0, arrays, params, (g, None, None))
    x, h0, c0, *weights = arrays
    order = [*range(count)][:: -1 if reverse else 1]

    def loss(dy, change_at, change):
        h, c, total = h0, c0, 0.0
        for t in order:
            _, h, c = tg.lstm(x[t : t + 1], h, c, *weights)
            if t == change_at:
                h = h + change
            total += (dy[t] * h).sum()
        return total

    seed = np.zeros_like(g)
    seed[order[-1]] = np.random.default_rng(0).standard_normal((1, n))
    as_it_is = view["curves"][0]
    for t in range(count):
        for key, dy in (("from_loss", g), ("from_end", seed)):
            eye = 1e-5 * np.eye(n)[:, None]
            d = [(loss(dy, t, e) - loss(dy, t, -e)) / 2e-5 for e in eye]
            size = np.linalg.norm(d) / (np.linalg.norm(seed) if key == "from_end" else 1)
            assert as_it_is[key][t] == pytest.approx(size, rel=1e-3)
    assert as_it_is["from_end"][order[-1]] == pytest.approx(1)
    bias = (arrays[5] + arrays[6])[n : 2 * n].mean()
    assert view["bias"] == pytest.approx(bias, rel=1e-3)
    for name, value in (("forget bias 0", 0.0), ("forget bias 1", 1.0)):
        changed = [a.copy() for a in arrays]
        changed[5][n : 2 * n] = value - changed[6][n : 2 * n]
        [other] = views.lstm_view(0, changed, params, (g, None, None))
        [mine] = [c for c in view["curves"] if c["name"] == name]
        assert mine["from_end"] == pytest.approx(other["curves"][0]["from_end"], rel=1e-4)


def test_a_larger_forget_bias_lets_more_through():
    t, _, _ = classifier()
    [view] = t.data["views"]["lstm"]
    curves = {c["name"]: c["from_end"] for c in view["curves"]}
    assert curves["forget bias 1"][0] > 1.5 * curves["forget bias 0"][0]


def test_attention_maps_are_the_weights():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 6, 5))
    mask = rng.random((2, 1, 1, 6)) < 0.7
    mask[..., 0] = True
    [view] = views.attention_view(7, [q, k, k], {"mask": mask, "is_causal": False, "scale": None})
    s = np.where(mask, q @ k.swapaxes(2, 3) / np.sqrt(5), -np.inf)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    assert view["shape"] == [2, 3, 4, 6]
    for m in view["maps"]:
        np.testing.assert_allclose(decoded(m["heat"]), p[m["text"], m["head"]], atol=5e-3)


def test_norms_over_training():
    t, model, _ = classifier(3, lr=0.5)
    passes = t.data["passes"]
    assert len(passes) == 3
    names = {name for name, _ in model.named_parameters()}
    assert all(p.keys() == names for p in passes)
    first = passes[0]["fc.weight"][0]
    again, _, _ = classifier(1)
    assert again.data["passes"][0]["fc.weight"][0] == first
    assert passes[2]["fc.weight"][0] != first
    last = np.linalg.norm(model.fc.weight.grad.numpy().astype(float))
    assert passes[2]["fc.weight"][0] == pytest.approx(last, rel=1e-4)


def test_norms_over_training_without_any_module():
    w = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    with tg.trace() as t:
        for _ in range(3):
            w.grad = None
            (w * w).sum().backward()
            w.data -= 0.1 * w.grad.numpy()
    first, *_, last = (p["w"][0] for p in t.data["passes"])
    assert first == pytest.approx(2 * 5**0.5, rel=1e-4)
    assert last == pytest.approx(2 * 5**0.5 * 0.8**2, rel=1e-4)


# ------------------------------------------------------------------------------------ typesetting


def test_docstrings_as_html():
    html = typeset.html(tg.REGISTRY["layer_norm"].__doc__)
    assert '<div class="shapes">x: (..., d)' in html
    assert (
        "dx = (<i>h</i> − mean(<i>h</i>) − <i>z</i> · mean(<i>h</i> · <i>z</i>)) / <i>s</i>" in html
    )
    assert "∂s/∂x<sub>j</sub>" in html
    assert "<em>centred</em>" in html
    assert "<code>ignore_index</code>" in typeset.html(tg.REGISTRY["cross_entropy"].__doc__)
    assert "y</i> = <i>a</i><sup><i>b</i></sup>" in typeset.html(tg.REGISTRY["pow"].__doc__)
    hostile = 'y = <script>alert(1)</script>\n\nA "<b>" word & `<i>`.'
    assert "<script" not in typeset.html(hostile)
    assert "<b>" not in typeset.html(hostile)
    assert typeset.html("") == ""
    for op in tg.REGISTRY.values():
        text = typeset.html(op.__doc__)
        assert re.sub("<[^>]*>", "", text).strip(), op.name
        for tag in ("i", "sub", "sup", "p", "div", "em", "code"):
            assert len(re.findall(f"<{tag}[ >]", text)) == text.count(f"</{tag}>"), (op.name, tag)


# ------------------------------------------------------------------------------------- notebooks


def test_in_a_notebook():
    x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    assert x._repr_html_() is None
    y = tg.softmax(x * 2.0)
    html = y._repr_html_()
    assert html.startswith("<iframe srcdoc=")
    assert "sandbox" in html
    assert x.grad is None  # looking changes nothing
    y.sum().backward()
    assert y._repr_html_() is None  # it was released
    for _ in range(300):
        x = x * 1.0
    assert x._repr_html_() is None  # too large for a cell
    with tg.trace() as t:
        (x * x).sum().backward()
    assert t._repr_html_().startswith("<iframe")


# ------------------------------------------------------------------------------------ the command


@pytest.fixture
def here(capsys):
    def run(*arguments):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as e:
            status = e.code
        return status, *capsys.readouterr()

    return run


SCRIPT = """
import sys
import tinygrad_mha as tg
assert __name__ == "__main__" and sys.argv[1:] == ["a", "--b"], sys.argv
x = tg.Tensor([1.0, 2.0], requires_grad=True)
(x * x).sum().backward()
print("hello")
"""


def test_the_command(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.py").write_text(SCRIPT)
    status, out, err = here("trace", "s.py", "a", "--b")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "hello",
        "<trace of 2 calls: mul, sum; 3 gradients measured, all right>",
        "the page is in trace.html",
    ]
    assert "s.py, line 6" in (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert here("trace", "--out", "other.html", "s.py", "a", "--b")[0] == 0
    assert (tmp_path / "other.html").exists()
    (tmp_path / "s.py").write_text(SCRIPT.replace("assert", "#"))
    status, _, err = here("trace", "s.py", "--out", "third.html")
    assert status == 0
    assert err == "--out stands behind s.py, so it goes to the script, and is no option of trace\n"


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        (None, [], "s.py: no such file or directory; give a Python script"),
        ("x = (", [], "s.py, line 1: no Python: '(' was never closed"),
        ("print(1)", [], "s.py: it makes no Tensor that requires a gradient"),
        ("x = 1\nraise ValueError('a\\nb')", [], r"s.py: line 2: ValueError: a\nb"),
        ("import sys; sys.exit(3)", [], "s.py: it ended with status 3"),
        (
            SCRIPT.replace("assert", "#"),
            ["--step", "2"],
            "s.py: it has only the steps 0 to 0; give another --step",
        ),
        (SCRIPT, ["--out", "no/where.html"], "no/where.html: is no place for a file"),
        (SCRIPT, ["--out", "."], ".: is no place for a file; choose another with --out"),
        (SCRIPT, ["--step", "-1"], "--step"),
    ],
)
def test_what_the_command_refuses(script, arguments, says, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if script is not None:
        (tmp_path / "s.py").write_text(script)
    status, _, err = here("trace", *arguments, "s.py")
    assert status == 2
    assert err.count("\n") == 1
    assert says in err
    assert not list(tmp_path.glob("*.html"))


def test_a_script_that_fails_later_leaves_a_page(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.py").write_text(SCRIPT.replace("assert", "#") + "1 / 0\n")
    status, _, err = here("trace", "s.py")
    assert status == 2
    assert "s.py: line 8: ZeroDivisionError: division by zero (the page shows what" in err
    assert (tmp_path / "trace.html").exists()


# ----------------------------------------------------------------------------- in a real browser

FORM = "document.getElementById('{}').{}"


def opened(browser, t, tmp_path, *size, **more):
    t.to_html(tmp_path / "page.html", "a <b>title</b>")
    browser.open(tmp_path / "page.html", *size, **more)
    return browser.js


def unharmed(browser, tmp_path):
    assert not browser.seen("Runtime.exceptionThrown")
    assert not browser.seen("Log.entryAdded")
    asked = [r["request"]["url"] for r in browser.seen("Network.requestWillBeSent")]
    assert asked == [(tmp_path / "page.html").as_uri()]


def texts(js, selector):
    return js(f"[...document.querySelectorAll({json.dumps(selector)})].map(x => x.textContent)")


def written(v, digits=4):
    """A number as the page writes it: so many digits, a true minus."""
    if v == 0:
        return "0"
    if 1e-3 <= abs(v) < 1e5:
        return f"{v:.{digits}g}".replace("-", "−")
    head, power = f"{v:.{digits - 2}e}".split("e")
    return f"{head}e{int(power):+d}".replace("-", "−")


def picture(browser):
    """A screenshot is no empty page: it has many colours."""
    import base64
    import struct
    import zlib

    data = base64.b64decode(browser("Page.captureScreenshot", format="png")["data"])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, _, kind = struct.unpack(">IIBB", data[16:26])
    parts, at = b"", 8
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        parts += data[at + 8 : at + 8 + size] if name == b"IDAT" else b""
        at += size + 12
    raw = zlib.decompress(parts)
    step = 3 if kind == 2 else 4
    assert len(raw) == height * (1 + width * step)
    return len({raw[k : k + step] for k in range(1, len(raw), 997 * step)}), (width, height)


def test_a_walk_through_the_page(browser, tmp_path):
    t, _, _ = classifier(3, lr=0.1, bidirectional=True)
    js = opened(browser, t, tmp_path)
    d = t.data
    assert js("document.querySelector('h1').textContent") == "a <b>title</b>"
    assert js("document.querySelector('h1 b')") is None
    # the classifier is open, its parts are closed
    assert texts(js, ".boxname text") == ["▾ TextClassifier"]
    groups = texts(js, ".group text:first-of-type")
    assert "▸ rnn: LSTM" in groups
    nodes = len(texts(js, ".node"))
    browser.click(".group[data-id]")
    assert len(texts(js, ".boxname text")) == 2
    assert len(texts(js, ".node")) > nodes
    js("document.querySelectorAll('.boxname')[1].dispatchEvent(new MouseEvent('click'))")
    assert len(texts(js, ".node")) == nodes
    # all of it: every call is drawn once
    browser.click("#unfold")
    assert len(texts(js, ".node")) == len(d["calls"])
    # one step on the way back
    browser.click("#on")
    assert js("document.getElementById('slider').value") == "1"
    assert texts(js, "#said b") == ["cross_entropy"]
    assert js("document.querySelector('#panel h2').firstChild.textContent") == "cross_entropy"
    assert "p = softmax" in js("document.querySelector('#panel .formula').textContent").replace(
        "\n", " "
    )
    assert "✓ measured" in texts(js, "#panel .check .ok")
    check = next(c for c in d["calls"] if c["op"] == "cross_entropy")["checks"][0]
    # the slider shows what was measured with every step (with the shortest, the last digits depend
    # on the processor, and may be those of another step)
    shown = []
    for k, (slope, error) in enumerate(zip(check["steps"], check["errors"], strict=True), 1):
        js("(() => { const s = document.querySelector('.check input');"
           f" s.value = {k}; s.oninput(); }})()")  # fmt: skip
        lines = texts(js, ".check div")[1:]
        assert lines[:2] == [
            f"⟨d, v⟩ = {written(check['analytic'], 5)}   differences: {written(slope, 5)}",
            f"error {written(error)} of the largest term",
        ]
        assert f"step 1e−{k} along a random direction v" in lines
        shown.append(lines[:2])
    for long, judged in zip(shown[0], shown[5], strict=True):
        assert long != judged  # the step of 0.1 is too long, that of 1e-6 is judged by
    # by keys, to the end: every call that has a gradient is tinted
    browser.key("End")
    assert js("document.getElementById('slider').value") == str(len(d["order"]))
    tinted = js(
        "[...document.querySelectorAll('.node .tint')].filter(x => +x.style.opacity > 0).length"
    )
    assert tinted == len(d["order"])
    assert js("document.querySelectorAll('.now').length") == 1
    browser.key("ArrowLeft")
    assert js("document.getElementById('slider').value") == str(len(d["order"]) - 1)
    browser.key("Home")
    assert "kept for the way back" in js("document.getElementById('said').textContent")
    # a fused op opens, and closes by a key
    js("document.getElementById('slider').value = 1; document.getElementById('slider').oninput()")
    browser.click("#dive")
    inner = d["inside"][next(c for c in d["calls"] if c["op"] == "cross_entropy")["inside"]]
    assert len(texts(js, ".node")) == len(inner["calls"])
    assert "cross_entropy, opened" in js("document.getElementById('crumbs').textContent")
    browser.key("Escape")
    assert "opened" not in js("document.getElementById('crumbs').textContent")
    # find
    js("(() => { const s = document.getElementById('search'); s.value = 'attention';"
       " s.oninput(); })()")  # fmt: skip
    assert js("document.querySelectorAll('.match').length") >= 1
    # a parameter's numbers
    js("document.getElementById('search').value = ''; document.getElementById('search').oninput()")
    browser.key("End")
    k = next(k for k, c in enumerate(d["calls"]) if c["op"] == "embedding")
    js(f"document.querySelector('[data-id=\"n{k}\"]').dispatchEvent(new MouseEvent('click'))")
    js("[...document.querySelectorAll('#panel .from button')]"
       ".find(b => b.textContent === 'embedding.weight').click()")  # fmt: skip
    assert "embedding.weight" in js("document.querySelector('#panel h2').textContent")
    assert "gradient" in js("document.getElementById('panel').textContent")
    # the other views
    tabs = js("[...document.querySelectorAll('#tabs button')].map(b => b.dataset.view)")
    assert tabs == ["graph", "lstm", "attention", "training"]
    browser.click("[data-view=lstm]")
    assert js("document.querySelectorAll('#other-view .chart svg path').length") == 2 * 2 * 3
    assert "forget bias 1" in js("document.getElementById('other-view').textContent")
    browser.click("[data-view=attention]")
    assert js("document.querySelectorAll('#other-view figure canvas').length") == 2 * 2
    browser.click("[data-view=training]")
    rows = texts(js, ".flow button")
    assert "fc.weight" in rows
    browser.click(".flow tr:nth-of-type(3) button")
    assert js("document.querySelector('#other-view b').textContent") == rows[2]
    unharmed(browser, tmp_path)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [(1280, 800), (360, 740)])
def test_it_fits_and_is_no_empty_page(browser, tmp_path, size, dark):
    t, _, _ = classifier(2)
    js = opened(browser, t, tmp_path, *size, dark)
    assert js("document.documentElement.scrollWidth") <= size[0]
    assert js("document.querySelectorAll('.node').length") >= 3
    colours, shape = picture(browser)
    assert colours > 10
    assert shape == size
    for view in ("lstm", "attention", "training"):
        js(f"document.querySelector('[data-view={view}]').click()")
        assert js("document.documentElement.scrollWidth") <= size[0]
        assert picture(browser)[0] > 5
    unharmed(browser, tmp_path)


def test_no_text_runs(browser, tmp_path):
    hostile = "</script><img src=x onerror=\"document.title='ran'\"><svg onload=1>"

    class Evil(nn.Module):
        def forward(self, x):
            return evil(x)

    @tg.primitive(lambda g, y, x, *, text: g, registry={})
    def evil(x, *, text=hostile):
        return x

    evil.__doc__ = hostile
    evil.name = hostile
    Evil.__name__ = hostile
    x = tg.Tensor([1.0], requires_grad=True)
    with tg.trace() as t:
        Evil()(x).sum().backward()
    js = opened(browser, t, tmp_path)
    for key in ("End", "Home", "End"):
        browser.key(key)
    assert hostile[:9] in js("document.getElementById('panel').textContent")
    assert js("document.title") == "a <b>title</b>"
    assert js("document.querySelectorAll('img, #panel svg[onload]').length") == 0
    unharmed(browser, tmp_path)


def test_five_thousand_calls_stay_usable(browser, tmp_path):
    rng = np.random.default_rng(0)
    xs = [tg.Tensor(rng.standard_normal(3), requires_grad=True) for _ in range(20)]
    with tg.trace() as t:
        for _ in range(2490):
            i, j = rng.integers(max(0, len(xs) - 30), len(xs), 2)
            xs.append(tg.tanh(xs[i] + xs[j]))
        tg.stack(xs[-40:]).sum().backward()
    assert len(t.data["calls"]) > 4900
    js = opened(browser, t, tmp_path)
    for key in ("ArrowRight", "End", "ArrowLeft", "Home", "ArrowRight"):
        browser.key(key)
    assert js("document.getElementById('slider').value") == "1"
    js("for (let k = 0; k < 8; k++) document.querySelector('[data-zoom=\"1.3\"]').click()")
    # only what is near is in the document
    assert 0 < js("document.querySelectorAll('.node').length") < 2500
    assert len((tmp_path / "page.html").read_bytes()) < 8e6
    unharmed(browser, tmp_path)


def test_a_chain_goes_on_under_itself(browser, tmp_path):
    x = tg.Tensor(np.array(0.5), requires_grad=True)
    with tg.trace() as t:
        y = x
        for _ in range(60):
            y = tg.sin(y)
        y.backward()
    js = opened(browser, t, tmp_path)
    tops = js("[...document.querySelectorAll('.node')].map(n => n.getBoundingClientRect().y | 0)")
    assert len(tops) == 60
    assert len(set(tops)) > 3
    assert explorer.data(t.recorder)["order"] == list(range(60))[::-1]
    unharmed(browser, tmp_path)
