"""What is printed for a learner: the graph as a tree, and all there is to know about an op."""

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha import nn


def test_a_tree_with_shapes():
    tg.manual_seed(0)
    layer = nn.Linear(3, 2)
    x = tg.Tensor(np.ones((4, 3), np.float32))
    h = tg.tanh(layer(x))
    loss = tg.cross_entropy(h + h, np.array([0, 1, 0, 1]))
    assert str(tg.graph(loss, names=layer)).splitlines() == [
        "cross_entropy ()",
        "├─ add (4, 2)",
        "│  ├─ tanh (4, 2)  [1]",
        "│  │  └─ linear (4, 2)",
        "│  │     ├─ constant (4, 3)",
        "│  │     ├─ weight (2, 3)",
        "│  │     └─ bias (2,)",
        "│  └─ [1] again",
        "└─ int64 (4,)",
    ]
    assert "parameter (2, 3)" in repr(tg.graph(loss))
    loss.backward()
    assert str(tg.graph(loss)) == "cross_entropy ()\n└─ (released by backward)"
    with pytest.raises(TypeError, match="a ndarray has none"):
        tg.graph(np.zeros(3))


def test_outputs_constants_and_dtypes():
    x = tg.Tensor(np.ones((2, 2)), requires_grad=True)
    a, b = tg.split(x, 2, axis=0)
    assert str(tg.graph(b * 2.0 + a)).splitlines() == [
        "add (1, 2) float64",
        "├─ mul (1, 2) float64",
        "│  ├─ split[1] (1, 2) float64",
        "│  │  └─ input (2, 2) float64  [1]",
        "│  └─ 2.0",
        "└─ split[0] (1, 2) float64",
        "   └─ [1] again",
    ]


def test_a_graph_deeper_than_the_stack_and_a_wide_one():
    x = tg.Tensor(1.0, requires_grad=True)
    for _ in range(20_000):
        x = tg.sin(x)
    text = str(tg.graph(x, lines=10)).splitlines()
    assert len(text) == 11
    assert text[-1] == "… 1 more branches"
    y = tg.Tensor(1.0, requires_grad=True)
    for _ in range(60):
        y = y + y  # 2^60 ways through it
    text = str(tg.graph(y, lines=1000)).splitlines()
    assert len(text) == 121
    assert sum("again" in line for line in text) == 60


def test_every_op_can_be_explained(capsys):
    for name, op in tg.REGISTRY.items():
        tg.explain_op(name)
        out = capsys.readouterr().out
        assert out.startswith(f"{name}("), name
        assert "gradients right to order 2" in out.splitlines()[-1], name
        assert f"def {op.forward.__name__}(" in out, name
        assert ("Reference: what it means" in out) == (op.reference is not None)
        if op.reference is not None:
            assert f"def {op.reference.__name__}(" in out
        meaning = op.__doc__.split("\n")[0].strip()
        fast = out.split("Fast: what is computed")
        assert meaning in fast[0]
        assert len(fast) == 1 or meaning not in fast[1], name


def test_an_op_of_ones_own_and_a_wrong_one(capsys):
    @tg.primitive(lambda g, y, x: g * x, sample=lambda rng: ((rng.random(3),), {}), registry={})
    def square(x):
        """y = x²     dx = g x"""
        return x * x

    tg.explain_op(square)
    out = capsys.readouterr().out
    assert "Certificate: NOT RIGHT" in out
    assert "wrong gradient" in out
    square.sample = None
    tg.explain_op(square)
    assert "call tg.gradcheck(op, inputs, order=2)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="do you mean layer_norm"):
        tg.explain_op("layernorm")
    with pytest.raises(ValueError, match=r"see tg\.REGISTRY"):
        tg.explain_op("qqq")


def test_looking_on_is_imported_later():
    import subprocess
    import sys

    code = (
        "import sys, tinygrad_mha as tg; assert 'trace' in dir(tg); "
        "assert not [m for m in sys.modules if m.startswith('tinygrad_mha.study')]; "
        "tg.graph; assert 'tinygrad_mha.study.terminal' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'traces'"):
        tg.traces  # noqa: B018
