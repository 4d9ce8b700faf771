"""The names that other people's code relies on, and that every one of them is certified."""

import configparser
import fnmatch
import inspect
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha import REGISTRY, Op, Tensor
from tinygrad_mha.operators import Operators

ROOT = Path(__file__).parents[1]
OPS_TEXT = """
    add sub mul div neg pow exp log log1p expm1 sqrt abs sin cos tanh sigmoid relu gelu silu
    softplus erf maximum minimum clip where
    sum mean var std max min prod logsumexp cumsum matmul einsum outer
    reshape transpose swapaxes expand_dims squeeze broadcast_to concatenate stack split flip tile
    pad tril triu take take_along_axis masked_fill embedding
    softmax log_softmax cross_entropy nll_loss binary_cross_entropy_with_logits mse_loss
    layer_norm add_layer_norm rms_norm linear linear_gelu dropout scaled_dot_product_attention lstm
"""
OTHERS_TEXT = """
    Tensor grad vjp jvp hvp jacobian no_grad detect_anomaly manual_seed set_default_dtype
    set_default_device gradcheck REGISTRY nn optim primitive primitive_of_many fused
    GradientError AnomalyError DeviceError checkpoint
"""
OPS, OTHERS = OPS_TEXT.split(), OTHERS_TEXT.split()
# What does not begin with one Tensor is no method of it: lists of arrays, ids, a condition, states.
NO_METHOD = {
    "where", "einsum", "concatenate", "stack", "embedding", "scaled_dot_product_attention", "lstm",
    "identity", "scatter", "sum_to", "getitem", "dropout", "layer_norm", "rms_norm",
    "cross_entropy", "nll_loss", "binary_cross_entropy_with_logits", "mse_loss",
}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_every_op_of_the_contract_is_certified(name):
    """It is public, and it is in the registry, whose ops all have cases and a certificate."""
    assert name in REGISTRY
    assert callable(getattr(tg, name))


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_names(name):
    assert hasattr(tg, name)


def test_every_public_function_on_tensors_is_an_op():
    """A function that slipped past the registry would slip past its gradient check."""
    public = {
        n for n, f in vars(tg).items()
        if not n.startswith("_") and callable(f) and not inspect.isclass(f)
    }  # fmt: skip
    ops = {n for n in public if isinstance(getattr(tg, n), Op)}
    assert ops <= set(REGISTRY)
    assert {tg.REGISTRY[n] for n in ops} == {getattr(tg, n) for n in ops}
    assert public - ops <= {*OTHERS, "einsum"}


def test_the_ops_are_methods_too():
    missing = [n for n in REGISTRY if n not in NO_METHOD and not hasattr(Tensor, n)]
    assert missing == []
    x = np.random.default_rng(0).standard_normal((3, 4))
    for name in ("exp", "var", "softmax", "cumsum", "tril", "logsumexp", "gelu", "erf", "prod"):
        np.testing.assert_array_equal(getattr(Tensor(x), name)().data, getattr(tg, name)(x))


def test_the_declarations_for_type_checkers_are_complete():
    """What attach() gives to Tensor stands in operators.py, with the same parameters."""
    declared = {n: f for n, f in vars(Operators).items() if callable(f) and n[0] != "_"}
    assert {n for n in REGISTRY if hasattr(Tensor, n)} <= set(declared)
    for name, f in declared.items():
        assert hasattr(Tensor, name)
        if name in REGISTRY and name not in ("reshape", "transpose"):
            op = REGISTRY[name]
            want = [*op.array_names[1:], *op.param_names]
            got = list(inspect.signature(f).parameters)[1:]
            assert got == [{"other": "b"}.get(n, n) for n in want], name


def test_a_wheel_has_every_folder_and_every_kernel():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    packages = config["options"]["packages"].split()
    data = config["options.package_data"]
    for file in (ROOT / "tinygrad_mha").rglob("*"):
        if file.is_dir() or "__pycache__" in file.parts:
            continue
        folder = ".".join(file.parent.relative_to(ROOT).parts)
        if file.suffix == ".py":
            assert folder in packages, file
            continue
        package = max((p for p in packages if f"{folder}.".startswith(f"{p}.")), key=len)
        name = file.relative_to(ROOT / package.replace(".", "/")).as_posix()
        patterns = [p.strip() for p in data.get(package, "").split(",")]
        assert name in [n for p in patterns for n in fnmatch.filter([name], p)], file
