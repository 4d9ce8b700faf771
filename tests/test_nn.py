"""Modules: what is found by walking, what the layers compute, and how weights come and go."""

import copy
import math
import pickle
import re

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.random import mask_stream
from tinygrad_mha.tensor import history


@pytest.fixture(autouse=True)
def seed():
    tg.manual_seed(0)


@pytest.fixture
def float64():
    tg.set_default_dtype(np.float64)
    yield
    tg.set_default_dtype(np.float32)


def ops_of(*outputs):
    """The names of all ops recorded behind some Tensors, oldest first."""
    nodes = {id(t.node): t.node for t in history(outputs)}
    return [node.op.name for node in nodes.values()]


# ---------------------------------------------------------------------------------- Parameter


def test_a_parameter_owns_a_copy_in_c_order():
    a = np.arange(6.0).reshape(2, 3).T
    p = nn.Parameter(a)
    p.data[0, 0] = 99
    assert a[0, 0] == 0
    assert p.data.flags.c_contiguous
    assert p.data.flags.owndata
    assert p.requires_grad
    np.testing.assert_array_equal(p.data[1:], a[1:])


def test_dtype_of_a_parameter():
    assert nn.Parameter([1.0]).dtype == np.float32
    assert nn.Parameter(np.ones(2)).dtype == np.float64  # an array's own dtype is kept
    assert nn.Parameter(np.ones(2), dtype=np.float32).dtype == np.float32
    assert nn.Parameter(Tensor(np.ones(2))).dtype == np.float64


def test_integers_cannot_be_learned():
    with pytest.raises(TypeError, match="only floating-point Tensors can require a gradient"):
        nn.Parameter(np.arange(3))


def test_a_frozen_parameter_gets_no_gradient():
    a, b = nn.Parameter([2.0]), nn.Parameter([3.0], requires_grad=False)
    (a * b).sum().backward()
    assert a.grad.item() == 3
    assert b.grad is None


def test_what_is_computed_from_a_parameter_is_a_plain_tensor():
    p = nn.Parameter([1.0])
    assert type(p * 2) is Tensor
    assert type(p.detach()) is Tensor
    assert repr(p) == "Parameter([1.], requires_grad=True)"


def test_copies_and_pickles_of_a_parameter():
    p = nn.Parameter([1.0, 2.0], requires_grad=False, dtype=np.float64)
    for q in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert type(q) is nn.Parameter
        assert not q.requires_grad
        assert q.dtype == np.float64
        q.data[0] = 5
        assert p.data[0] == 1


def test_a_deep_copy_of_a_module_keeps_what_is_shared():
    layer = nn.Linear(2, 2)
    layer.tied = layer.weight
    twin = copy.deepcopy(layer)
    assert twin.tied is twin.weight
    assert twin.weight is not layer.weight
    np.testing.assert_array_equal(twin.weight.data, layer.weight.data)


# ------------------------------------------------------------------------------------ walking


class Tree(nn.Module):
    """A module that holds things in every way there is."""

    def __init__(self):
        self.first = nn.Linear(2, 2)
        self.listed = [nn.Linear(2, 2, bias=False), (nn.LayerNorm(2), "text", None, 3)]
        self.named = {"a": nn.Parameter([1.0]), "b": {"c": nn.Dropout(0.5)}}
        self.again = self.first  # a module with two names
        self.tied = self.first.weight  # a parameter with three
        self.plain = Tensor([1.0], requires_grad=True)  # not a Parameter: not the module's to learn
        self.nothing = None


NAMES = [
    "first.weight",
    "first.bias",
    "listed.0.weight",
    "listed.1.0.weight",
    "listed.1.0.bias",
    "named.a",
    "again.weight",
    "again.bias",
    "tied",
]


def test_parameters_are_found_in_attributes_lists_tuples_and_dicts():
    tree = Tree()
    assert [name for name, _ in tree.named_parameters()] == NAMES[:6]
    assert all(type(p) is nn.Parameter for p in tree.parameters())
    assert tree.parameters()[0] is tree.first.weight
    assert len(tree.parameters()) == 6


def test_modules_are_found_once_and_the_module_itself_comes_first():
    tree = Tree()
    names = ["", "first", "listed.0", "listed.1.0", "named.b.c"]
    assert [name for name, _ in tree.named_modules()] == names
    assert tree.modules()[0] is tree
    assert tree.modules()[1] is tree.first


def test_a_state_lists_a_shared_parameter_under_every_name():
    tree = Tree()
    state = tree.state_dict()
    assert list(state) == NAMES
    np.testing.assert_array_equal(state["tied"], state["again.weight"])
    tree.load_state_dict({**state, "tied": np.full((2, 2), 7.0)})  # the last name wins
    assert (tree.first.weight.data == 7).all()


def test_parameters_appear_and_go_with_the_attribute():
    layer = nn.Linear(2, 2)
    layer.extra = nn.Parameter([1.0])
    assert "extra" in layer.state_dict()
    del layer.extra
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]


def test_a_child_that_refers_to_its_parent_is_no_endless_loop():
    parent, child = Tree(), nn.Linear(1, 1)
    parent.child, child.parent = child, parent
    assert len(parent.parameters()) == 8
    assert "child.weight" in parent.state_dict()
    assert "child.parent.first.weight" not in parent.state_dict()
    assert "child: Linear(1, 1)" in repr(parent)


def test_a_module_may_change_while_another_thread_walks_it():
    """The first eval() adds an attribute, and free-threaded Python lets two threads do so."""
    net = nn.Linear(2, 1)
    walk = nn.members(net)
    first = next(walk)
    net.eval()
    assert [name for name, _ in (first, *walk)] == ["weight", "bias"]


def test_train_and_eval_reach_every_module_and_return_the_module():
    tree = Tree()
    assert all(m.training for m in tree.modules())
    assert tree.eval() is tree
    assert not any(m.training for m in tree.modules())
    assert tree.train() is tree
    assert tree.named["b"]["c"].training
    tree.train(False)
    assert not tree.first.training
    assert nn.Linear(1, 1).training  # the flag is each object's own


def test_eval_still_records():
    layer = nn.Linear(2, 1).eval()
    layer(np.ones((1, 2), np.float32)).sum().backward()
    assert layer.weight.grad.numpy().tolist() == [[1, 1]]


def test_zero_grad_forgets_all_gradients():
    tree = Tree()
    for p in tree.parameters():
        p.grad = Tensor(np.ones(p.shape, np.float32))
    tree.zero_grad()
    assert all(p.grad is None for p in tree.parameters())


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match=r"Tree has no forward\(\)"):
        Tree()(1)


def test_the_printed_tree():
    assert repr(Tree()) == "\n".join(
        [
            "Tree  15 parameters",
            "├─ first: Linear(2, 2)  6",
            "├─ listed.0: Linear(2, 2, bias=False)  4",
            "├─ listed.1.0: LayerNorm(2)  4",
            "├─ named.b.c: Dropout(0.5)",
            "└─ again: Linear(2, 2)  6",
        ]
    )


def test_the_printed_tree_is_nested():
    net = nn.Sequential(nn.Sequential(nn.Embedding(1000, 4, padding_idx=0)), nn.LSTM(4, 2, 2))
    assert repr(net).splitlines() == [
        "Sequential  4,112 parameters",
        "├─ 0: Sequential  4,000",
        "│  └─ 0: Embedding(1000, 4, padding_idx=0)  4,000",
        "└─ 1: LSTM(4, 2, num_layers=2)  112",
    ]


# ------------------------------------------------------------------------- loading and saving


def test_a_state_is_a_copy():
    layer = nn.Linear(2, 2)
    state = layer.state_dict()
    state["weight"][:] = 5
    assert not (layer.weight.data == 5).any()
    assert all(a.flags.c_contiguous and a.flags.owndata for a in state.values())


def test_a_transposed_source_arrives_as_it_looks():
    w = np.arange(6.0).reshape(3, 2)
    layer = nn.Linear(3, 2, bias=False)
    layer.load_state_dict({"weight": w.T})
    np.testing.assert_array_equal(layer.weight.data, w.T)
    again = nn.Linear(3, 2, bias=False)
    layer.weight.data = np.asfortranarray(layer.weight.data)  # and as it is saved
    again.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(again.weight.data, w.T)
    assert layer.state_dict()["weight"].flags.c_contiguous


@pytest.mark.parametrize("convert", [np.float64, Tensor, lambda a: a.tolist(), nn.Parameter])
def test_loading_keeps_dtype_objects_and_memory(convert):
    layer, source = nn.Linear(3, 2), nn.Linear(3, 2).state_dict()
    weight, array = layer.weight, layer.weight.data
    assert layer.load_state_dict({k: convert(a) for k, a in source.items()}) == ([], [])
    assert layer.weight is weight
    assert layer.weight.data is array
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, source["weight"])
    source["weight"][:] = 9
    assert not (array == 9).any()


def test_one_error_names_everything_that_does_not_fit_and_nothing_changes():
    net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    before = net.state_dict()
    state = {
        "0.weight": np.ones((3, 2)),
        "0.bias": np.ones(2),
        "1.weight": np.array(["a", "b"]),
        "1.gamma": np.ones(2),
        "head": np.ones(1),
    }
    with pytest.raises(ValueError, match="does not fit") as caught:
        net.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "this state does not fit Sequential:",
        "  missing: 1.bias",
        "  unexpected: 1.gamma, head",
        "  wrong: 0.weight is (3, 2), should be (2, 3); "
        "1.weight cannot be read: <U1 is no real number",
    ]
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


def test_not_strict_reports_the_names_but_shapes_still_have_to_fit():
    layer = nn.Linear(1, 2)
    before = layer.bias.numpy().copy()
    found = layer.load_state_dict({"weight": [[1.0], [2.0]], "more": [0.0]}, strict=False)
    assert found == (["bias"], ["more"])
    np.testing.assert_array_equal(layer.weight.data, [[1], [2]])
    np.testing.assert_array_equal(layer.bias.data, before)
    with pytest.raises(ValueError, match=r"wrong: weight is \(1,\), should be \(2, 1\)"):
        layer.load_state_dict({"weight": [1.0]}, strict=False)


def test_a_number_is_not_spread_over_a_weight():
    with pytest.raises(ValueError, match=r"bias is \(\), should be \(2,\)"):
        nn.Linear(1, 2).load_state_dict({"weight": np.ones((2, 1)), "bias": 1.0})


def test_safetensors_round_trip(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    net, other = (nn.LSTM(3, 2, 2, bidirectional=True) for _ in range(2))
    safetensors.save_file(net.state_dict(), tmp_path / "net")
    other.load_state_dict(safetensors.load_file(tmp_path / "net"))
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data, err_msg=name)


# ------------------------------------------------------------------------- dtypes and devices


def test_weights_are_the_same_numbers_in_both_dtypes(float64):
    def weights():
        tg.manual_seed(3)
        net = nn.Sequential(nn.Embedding(5, 4), nn.LSTM(4, 3), nn.Linear(3, 2), nn.LayerNorm(2))
        return net.state_dict()

    double = weights()
    tg.set_default_dtype(np.float32)
    for name, a in weights().items():
        assert a.dtype == np.float32
        assert double[name].dtype == np.float64
        np.testing.assert_array_equal(a, double[name].astype(np.float32), err_msg=name)


def test_astype_converts_parameters_and_gradients():
    layer = nn.Linear(2, 1)
    layer(Tensor([[1.0, 2.0]])).sum().backward()
    weight = layer.weight
    assert layer.astype(np.float64) is layer
    assert layer.weight is weight
    assert weight.dtype == weight.grad.dtype == np.float64
    assert weight.grad.numpy().tolist() == [[1, 2]]
    with pytest.raises(TypeError, match="parameters are floating-point numbers, not int64"):
        layer.astype(np.int64)


def test_to_the_cpu_changes_nothing_and_an_unknown_device_is_an_error():
    layer = nn.Linear(2, 1)
    array = layer.weight.data
    assert layer.to("cpu") is layer
    assert layer.weight.data is array
    with pytest.raises(tg.DeviceError, match="unknown device 'gpu'"):
        layer.to("gpu")


def test_to_the_gpu_and_back(cupy):
    net = nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.LSTM(4, 3, bidirectional=True))
    ids, before = np.array([[1, 2, 3], [4, 5, 0]]), net.state_dict()
    y, _ = net(ids)
    y.sum().backward()
    weight = net[0].weight
    net.to("cuda")
    assert weight.device == weight.grad.device == "cuda:0"
    y_gpu, (h_n, _) = net[1](net[0](ids), lengths=[3, 2])
    assert y_gpu.device == h_n.device == "cuda:0"
    np.testing.assert_allclose(y_gpu.numpy()[0], y.numpy()[0], atol=1e-6)
    state = net.state_dict()
    assert all(type(a) is np.ndarray for a in state.values())
    net.load_state_dict({name: a + 1 for name, a in state.items()})
    assert weight.device == "cuda:0"
    net.to("cpu")
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, before[name] + 1)


def test_new_modules_are_made_on_the_default_device(cupy):
    host = nn.Linear(3, 2).state_dict()
    tg.manual_seed(0)
    tg.set_default_device("cuda")
    try:
        layer = nn.Linear(3, 2)
        assert layer.weight.device == "cuda:0"
        np.testing.assert_array_equal(layer.weight.numpy(), host["weight"])
        assert copy.deepcopy(layer.weight).device == "cuda:0"
    finally:
        tg.set_default_device("cpu")


# ------------------------------------------------------------------------------------- layers


def test_linear_by_hand():
    layer = nn.Linear(2, 3)
    layer.load_state_dict({"weight": [[1, 2], [3, 4], [5, 6]], "bias": [10, 20, 30]})
    x = Tensor([[1.0, -1.0], [0.0, 2.0]], requires_grad=True)
    y = layer(x)
    assert ops_of(y) == ["linear"]
    assert y.numpy().tolist() == [[9, 19, 29], [14, 28, 42]]
    (y * [[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]).sum().backward()
    assert layer.weight.grad.numpy().tolist() == [[1, -1], [0, 2], [2, -2]]
    assert layer.bias.grad.numpy().tolist() == [1, 1, 2]
    assert x.grad.numpy().tolist() == [[11, 14], [3, 4]]
    assert layer(x[0]).numpy().tolist() == [9, 19, 29]
    assert layer(x.reshape(1, 2, 1, 2)).shape == (1, 2, 1, 3)


def test_linear_without_bias():
    layer = nn.Linear(2, 1, bias=False)
    assert layer.bias is None
    assert list(layer.state_dict()) == ["weight"]
    np.testing.assert_array_equal(layer(np.eye(2, dtype=np.float32)).data, layer.weight.data.T)


def test_linear_on_a_wrong_width_names_both():
    with pytest.raises(ValueError, match=r"linear: x \(1, 4\) and weight \(2, 3\) must agree"):
        nn.Linear(3, 2)(np.ones((1, 4), np.float32))


@pytest.mark.parametrize("n", [0, -1, 2.0, "3", None])
def test_sizes_are_positive_integers(n):
    with pytest.raises(
        ValueError, match=f"in_features should be a positive .*{re.escape(repr(n))}"
    ):
        nn.Linear(n, 2)
    with pytest.raises(ValueError, match="embedding_dim"):
        nn.Embedding(3, n)
    with pytest.raises(ValueError, match="num_layers"):
        nn.LSTM(3, 2, n)
    with pytest.raises(ValueError, match="normalized_shape"):
        nn.LayerNorm((2, n))


def test_initial_weights_have_the_promised_spread():
    for p in nn.Linear(100, 500).parameters():  # ±1/√in
        assert np.abs(p.data).max() <= 0.1
        assert np.std(p.data) == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
    for p in nn.LSTM(30, 100, num_layers=2, bidirectional=True).parameters():  # ±1/√hidden
        assert np.abs(p.data).max() <= 0.1
        assert np.std(p.data) == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
        assert abs(p.data.mean()) < 0.01
    table = nn.Embedding(400, 50).weight.data
    assert table.std() == pytest.approx(1, rel=0.02)
    norm = nn.LayerNorm(3)
    assert norm.weight.data.tolist() == [1, 1, 1]
    assert norm.bias.data.tolist() == [0, 0, 0]


def test_initial_weights_follow_the_seed():
    a, b = nn.Linear(3, 3).state_dict(), nn.Linear(3, 3).state_dict()
    tg.manual_seed(0)
    c = nn.Linear(3, 3).state_dict()
    np.testing.assert_array_equal(a["weight"], c["weight"])
    assert not (a["weight"] == b["weight"]).any()


def test_embedding_rows_and_their_gradients():
    table = nn.Embedding(4, 2, padding_idx=0)
    assert table.weight.data[0].tolist() == [0, 0]
    rows = table.weight.data[1:].copy()
    y = table([[1, 3, 1, 0]])
    np.testing.assert_array_equal(y.data[0], rows[[0, 2, 0]].tolist() + [[0, 0]])
    (y * [[[1.0], [2.0], [3.0], [9.0]]]).sum().backward()
    assert table.weight.grad.numpy().tolist() == [[0, 0], [4, 4], [0, 0], [2, 2]]


def test_a_negative_padding_idx_counts_from_the_end():
    table = nn.Embedding(4, 2, padding_idx=-1)
    assert table.padding_idx == 3
    assert table.weight.data[3].tolist() == [0, 0]
    table([3, 2]).sum().backward()
    assert table.weight.grad.numpy()[:, 0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("index", [4, -5])
def test_a_padding_idx_outside_the_table_is_an_error(index):
    with pytest.raises(ValueError, match=f"padding_idx {index} is none of 4 rows"):
        nn.Embedding(4, 2, padding_idx=index)


def test_layer_norm_by_hand():
    norm = nn.LayerNorm(2, eps=0.0)
    norm.load_state_dict({"weight": [2, 3], "bias": [0, 1]})
    assert norm(Tensor([[1.0, 5.0], [4.0, 2.0]])).numpy().tolist() == [[-2, 4], [2, -2]]
    assert repr(norm) == "LayerNorm(2, eps=0.0)  4 parameters"


def test_layer_norm_over_two_axes(float64):
    x = np.random.default_rng(0).standard_normal((3, 2, 4))
    y = nn.LayerNorm((2, 4))(x).numpy()
    np.testing.assert_allclose(y.mean(axis=(1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=(1, 2)), 1, rtol=1e-4)


def test_dropout_zeroes_scales_and_stops_in_eval():
    drop, x = nn.Dropout(0.25), Tensor(np.ones((200, 50), np.float32), requires_grad=True)
    y = drop(x)
    assert set(np.unique(y.data)) == {0, np.float32(4 / 3)}
    assert (y.data == 0).mean() == pytest.approx(0.25, abs=0.02)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, y.data)
    assert y.dtype == np.float32
    assert drop.eval()(x) is x
    assert drop.train()(x) is not x


def test_dropout_masks_differ_from_call_to_call_and_follow_the_seed():
    drop, x = nn.Dropout(0.5), np.ones((4, 100), np.float32)
    masks = [drop(x) for _ in range(3)]
    assert not (masks[0] == masks[1]).all()
    tg.manual_seed(0)
    for mask in masks:
        np.testing.assert_array_equal(drop(x), mask)


def test_dropout_of_nothing_and_of_everything():
    x = Tensor([[1.0, 2.0]])
    assert nn.Dropout(0.0)(x) is x
    assert nn.Dropout(1.0)(x).numpy().tolist() == [[0, 0]]
    for module in (nn.Dropout, lambda p: nn.LSTM(1, 1, 2, dropout=p)):
        with pytest.raises(ValueError, match=r"probability 1.5 is not between 0 and 1"):
            module(1.5)


def test_sequential_calls_one_after_another():
    double = nn.Linear(1, 1)
    double.load_state_dict({"weight": [[2]], "bias": [1]})
    net = nn.Sequential(double, lambda x: x * 10, double)
    assert net(Tensor([[3.0]])).item() == 141
    assert len(net) == 3
    assert net[0] is net[-1] is double
    assert len(net.parameters()) == 2
    assert list(net) == [net[0], net[1], net[2]]
    net.eval()
    assert net(Tensor([[3.0]])).item() == 141  # the flag is not taken for a step
    with pytest.raises(TypeError, match="Sequential: step 1 is no module: int"):
        nn.Sequential(double, 3)


# --------------------------------------------------------------------------------------- LSTM


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def test_two_steps_of_an_lstm_by_hand(float64):
    rnn = nn.LSTM(1, 1)
    rnn.load_state_dict(
        {
            "weight_ih_l0": [[0.1], [0.2], [0.3], [0.4]],  # i f g o
            "weight_hh_l0": [[0.5], [0.6], [0.7], [0.8]],
            "bias_ih_l0": [0.01, 0.02, 0.03, 0.04],
            "bias_hh_l0": [0.1, 0.1, 0.1, 0.1],
        }
    )
    h, c, outputs = 0.25, -0.5, []
    for x in (1.0, 2.0):
        i = sigmoid(0.1 * x + 0.5 * h + 0.11)
        f = sigmoid(0.2 * x + 0.6 * h + 0.12)
        g = math.tanh(0.3 * x + 0.7 * h + 0.13)
        o = sigmoid(0.4 * x + 0.8 * h + 0.14)
        c = f * c + i * g
        h = o * math.tanh(c)
        outputs.append(h)
    state = np.array([[[0.25]]]), np.array([[[-0.5]]])
    y, (h_n, c_n) = rnn(np.array([[[1.0], [2.0]]]), state)
    np.testing.assert_allclose(y.data[0, :, 0], outputs, rtol=0, atol=1e-15)
    assert h_n.item() == pytest.approx(h, rel=1e-14)
    assert c_n.item() == pytest.approx(c, rel=1e-14)


def test_lstm_names_and_shapes_are_torchs():
    rnn = nn.LSTM(3, 2, num_layers=2, bidirectional=True)
    assert {name: p.shape for name, p in rnn.named_parameters()} == {
        f"{name}_l{layer}{way}": shape
        for layer, width in ((0, 3), (1, 4))
        for way in ("", "_reverse")
        for name, shape in {
            "weight_ih": (8, width),
            "weight_hh": (8, 2),
            "bias_ih": (8,),
            "bias_hh": (8,),
        }.items()
    }
    assert list(nn.LSTM(3, 2, bias=False).state_dict()) == ["weight_ih_l0", "weight_hh_l0"]


def test_one_recorded_node_a_layer_and_direction(float64):
    rnn = nn.LSTM(3, 2, num_layers=2, bidirectional=True)
    y, (h, c) = rnn(np.ones((4, 7, 3)), lengths=[7, 7, 3, 1])
    assert ops_of(y, h, c).count("lstm") == 4
    assert len(ops_of(y, h, c)) == 4 + 2 + 1 + 2  # + two concatenate, one swapaxes, two stack


def test_the_last_states_are_those_of_the_last_real_token(float64):
    rnn = nn.LSTM(3, 2, num_layers=2, bidirectional=True)
    lengths = [4, 1, 6]
    x = np.random.default_rng(0).standard_normal((3, 6, 3))
    y, (h_n, c_n) = rnn(x, lengths=lengths)
    assert h_n.shape == c_n.shape == (4, 3, 2)
    for b, n in enumerate(lengths):
        assert (y.data[b, n:] == 0).all()
        assert (y.data[b, :n] != 0).all()
        np.testing.assert_array_equal(h_n.data[2, b], y.data[b, n - 1, :2])  # forwards: the end
        np.testing.assert_array_equal(h_n.data[3, b], y.data[b, 0, 2:])  # backwards: the start


def test_the_way_back_is_the_way_forth_over_the_text_turned_round(float64):
    both, one = nn.LSTM(3, 2, bidirectional=True), nn.LSTM(3, 2)
    reverse = {k: a for k, a in both.state_dict().items() if k.endswith("_reverse")}
    one.load_state_dict({k.removesuffix("_reverse"): a for k, a in reverse.items()})
    x = np.random.default_rng(0).standard_normal((1, 5, 3))
    y, (h, c) = both(x)
    back, (h1, c1) = one(x[:, ::-1])
    np.testing.assert_allclose(y.data[:, :, 2:], back.data[:, ::-1], rtol=1e-13)
    np.testing.assert_allclose(h.data[1], h1.data[0], rtol=1e-13)
    np.testing.assert_allclose(c.data[1], c1.data[0], rtol=1e-13)


def test_batch_first_or_time_first(float64):
    rnn = nn.LSTM(3, 2, num_layers=2, bidirectional=True)
    other = nn.LSTM(3, 2, num_layers=2, bidirectional=True, batch_first=False)
    other.load_state_dict(rnn.state_dict())
    x = np.random.default_rng(0).standard_normal((4, 5, 3))
    y, (h, c) = rnn(x, lengths=[5, 2, 3, 0])
    z, (h2, c2) = other(x.swapaxes(0, 1), lengths=[5, 2, 3, 0])
    np.testing.assert_array_equal(y.data, z.data.swapaxes(0, 1))
    np.testing.assert_array_equal(h.data, h2.data)
    np.testing.assert_array_equal(c.data, c2.data)


class Probe:
    """An LSTM of two layers and directions, texts, and a loss that weighs all it returns."""

    lengths = (5, 1, 7, 3, 0, 5)

    def __init__(self):
        rng = np.random.default_rng(1)
        self.rnn = nn.LSTM(3, 2, num_layers=2, bidirectional=True)
        self.texts = [rng.standard_normal((n, 3)) for n in self.lengths]
        self.weights = [rng.standard_normal((n, 4)) for n in self.lengths]
        self.state = rng.standard_normal((2, 4, 6, 2))
        self.state_weights = rng.standard_normal((2, 4, 6, 2))

    def run(self, chosen, steps):
        """Values and gradients of some texts in one batch, padded to ``steps`` with rubbish."""
        lengths = [self.lengths[k] for k in chosen]
        x, w = np.full((len(chosen), steps, 3), np.nan), np.zeros((len(chosen), steps, 4))
        for row, k in enumerate(chosen):
            x[row, : lengths[row]], w[row, : lengths[row]] = self.texts[k], self.weights[k]
        x = Tensor(x, requires_grad=True)
        h0, c0 = (Tensor(s[:, chosen], requires_grad=True) for s in self.state)
        self.rnn.zero_grad()
        y, (h, c) = self.rnn(x, (h0, c0), lengths=lengths)
        wh, wc = self.state_weights[:, :, chosen]
        ((y * w).sum() + (h * wh).sum() + (c * wc).sum()).backward()
        by_text = {}
        for row, k in enumerate(chosen):
            n = lengths[row]
            assert (y.data[row, n:] == 0).all()
            assert (x.grad.data[row, n:] == 0).all()
            by_text[k] = [y.data[row, :n], h.data[:, row], c.data[:, row]]
            by_text[k] += [x.grad.data[row, :n], h0.grad.data[:, row], c0.grad.data[:, row]]
        return by_text, {name: p.grad.data for name, p in self.rnn.named_parameters()}


@pytest.mark.parametrize(
    ("chosen", "steps"),
    [
        ([0, 1, 2, 3, 4, 5], 7),
        ([0, 1, 2, 3, 4, 5], 100),  # longer padding
        ([4, 2, 5, 0, 3, 1], 8),  # another order
        ([3, 1], 3),  # other company
        ([4], 2),  # nothing but an empty text
    ],
)
def test_pads_order_and_company_change_nothing(float64, chosen, steps):
    probe = Probe()
    by_text, weights = probe.run(chosen, steps)
    total = dict.fromkeys(weights, 0)
    for k in chosen:  # each text by itself, without a pad
        alone, d = probe.run([k], probe.lengths[k])
        for a, b in zip(by_text[k], alone[k], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        total = {name: total[name] + d[name] for name in total}
    assert len(total) == 16
    for name, d in weights.items():
        np.testing.assert_allclose(d, total[name], rtol=0, atol=1e-12, err_msg=name)
        assert chosen == [4] or np.abs(d).max() > 1e-3  # there is something to compare


def test_dropout_lies_between_the_layers_and_only_in_training(float64):
    rnn = nn.LSTM(3, 40, num_layers=2, dropout=0.5)
    x = np.random.default_rng(0).standard_normal((2, 4, 3))
    first = nn.LSTM(3, 40)
    first.load_state_dict({k: a for k, a in rnn.state_dict().items() if "_l0" in k})
    plain, (h_plain, _) = rnn.eval()(x)
    np.testing.assert_array_equal(plain.data, rnn(x)[0].data)
    dropped, (h, _) = rnn.train()(x)
    again, _ = rnn(x)
    assert not np.allclose(plain.data, dropped.data)
    assert not np.allclose(again.data, dropped.data)
    np.testing.assert_array_equal(h.data[0], h_plain.data[0])  # the first layer is untouched
    assert not (dropped.data == 0).any()  # and so is the output of the last
    tg.manual_seed(0)
    a, _ = rnn(x)
    tg.manual_seed(0)
    b, _ = rnn(x)
    np.testing.assert_array_equal(a.data, b.data)
    # what it computes: dropout, batch first, of the first layer's outputs
    tg.manual_seed(0)
    middle = tg.dropout(first(x)[0], p=0.5)
    second = nn.LSTM(40, 40)
    parts = {k.replace("_l1", "_l0"): a for k, a in rnn.state_dict().items() if "_l1" in k}
    second.load_state_dict(parts)
    np.testing.assert_allclose(second(middle)[0].data, b.data, rtol=1e-13)


def test_one_layer_has_no_place_for_dropout(float64):
    rnn = nn.LSTM(3, 4, dropout=0.9)
    x = np.ones((2, 3, 3))
    np.testing.assert_array_equal(rnn(x)[0].data, rnn.eval()(x)[0].data)


@pytest.mark.parametrize("batch_first", [True, False])
def test_dropout_masks_belong_to_rows_however_the_batch_is_cut(float64, batch_first):
    rnn = nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=batch_first)
    x = np.random.default_rng(0).standard_normal((5, 6, 3))

    def run(rows):
        part = x[rows] if batch_first else x[rows].swapaxes(0, 1)
        with mask_stream(seed=0, step=3, first_row=rows.start):
            y = rnn(part)[0].data
        return y if batch_first else y.swapaxes(0, 1)

    whole = run(slice(0, 5))
    parts = np.concatenate([run(slice(0, 2)), run(slice(2, 5))])
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-14)


def test_an_lstm_of_no_steps_returns_the_state_it_was_given(float64):
    rnn = nn.LSTM(3, 2, num_layers=2, bidirectional=True)
    h0, c0 = np.random.default_rng(0).standard_normal((2, 4, 4, 2))
    y, (h, c) = rnn(np.zeros((4, 0, 3)), (h0, c0))
    assert y.shape == (4, 0, 4)
    np.testing.assert_array_equal(h.data, h0)
    np.testing.assert_array_equal(c.data, c0)


def test_lengths_may_be_a_list_an_array_or_a_tensor(float64):
    rnn, x = nn.LSTM(3, 2), np.ones((2, 4, 3))
    ys = [rnn(x, lengths=n)[0].data for n in ([3, 1], np.array([3, 1]), Tensor(np.array([3, 1])))]
    np.testing.assert_array_equal(ys[0], ys[1])
    np.testing.assert_array_equal(ys[0], ys[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r(np.ones((2, 5))), r"LSTM: x \(2, 5\) should be \(batch, steps, 3\)"),
        (lambda r: r(np.ones((2, 5, 4))), r"LSTM: x \(2, 5, 4\) should be \(batch, steps, 3\)"),
        (lambda r: r(np.ones((2, 5, 3)), (np.ones((1, 5, 2)),) * 2), r"h0 \(1, 5, 2\) should be .*"
         r"\(layers · directions, batch, hidden_size\) = \(1, 2, 2\)"),
        (lambda r: r(np.ones((2, 5, 3)), (np.ones((1, 2, 2)), np.ones((2, 2)))), r"c0 \(2, 2\)"),
        (lambda r: r(np.ones((2, 5, 3)), (np.ones((1, 2, 2)), None)), r"c0 \(\) should be"),
        (lambda r: r(np.ones((2, 5, 3)), lengths=[6, 1]), "length of 6 is not between 0 and the 5"),
        (lambda r: r(np.ones((2, 5, 3)), lengths=[5]), "lengths should be 2 integers"),
        (lambda r: r(np.ones((2, 5, 3)), lengths=[5.0, 1.5]), "lengths should be 2 integers"),
    ],
)  # fmt: skip
def test_lstm_errors(float64, call, message):
    with pytest.raises(ValueError, match=message):
        call(nn.LSTM(3, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r(np.ones((2, 5, 3)), np.ones((1, 2, 2))), r"state should be a pair \(h0, c0\)"),
        (lambda r: r(np.ones((2, 5, 3), int)), "x is int64: it should be floating-point"),
    ],
)
def test_lstm_on_the_wrong_kind_of_thing(call, message):
    with pytest.raises(TypeError, match=message):
        call(nn.LSTM(3, 2))


def test_lstm_in_two_dtypes():
    """A float64 input on a float32 module computes in float64; gradients keep their own dtypes."""
    rnn = nn.LSTM(3, 2)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 4, 3)), requires_grad=True)
    y, _ = rnn(x, lengths=[4, 2])
    y.sum().backward()
    want, _ = copy.deepcopy(rnn).astype(np.float64)(x, lengths=[4, 2])
    np.testing.assert_allclose(y.data, want.data, rtol=1e-14)
    assert (x.grad.dtype, rnn.weight_hh_l0.grad.dtype) == (np.float64, np.float32)


def test_a_seed_is_not_negative():
    with pytest.raises(ValueError, match="seed -1 should be an integer from 0 on"):
        tg.manual_seed(-1)


def test_lstm_keeps_float32():
    rnn = nn.LSTM(3, 2, num_layers=2, bidirectional=True, dropout=0.5)
    y, (h, c) = rnn(np.ones((2, 4, 3), np.float32), lengths=[4, 2])
    (y.sum() + h.sum() + c.sum()).backward()
    assert y.dtype == h.dtype == c.dtype == np.float32
    assert {p.grad.dtype for p in rnn.parameters()} == {np.dtype(np.float32)}
