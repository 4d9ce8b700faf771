"""PyTorch's weights, from safetensors files that PyTorch wrote, compute here what they do there."""

import itertools

import numpy as np
import pytest
from safetensors.numpy import load_file

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.models import MultiHeadAttention
from tinygrad_mha.models.torch_weights import multi_head_attention, transformer_encoder_layer
from tinygrad_mha.models.transformer import TransformerBlock

torch = pytest.importorskip("torch", reason="needs PyTorch (extra torch)")
F = torch.nn.functional
save_file = pytest.importorskip("safetensors.torch", reason="needs safetensors").save_file
pytestmark = pytest.mark.torch

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def rng():
    tg.manual_seed(0)
    torch.manual_seed(0)
    return np.random.default_rng(0)


@pytest.fixture
def loaded(tmp_path):
    """Ours with the weights of theirs, on the way through a file."""

    def load(ours, theirs, dtype=torch.float64):
        theirs.to(dtype).eval()
        with torch.no_grad():
            for p in theirs.parameters():  # neither zeros nor ones, as biases and norms have
                p += 0.2 * torch.randn(p.shape, dtype=dtype)
        save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
        ours.astype(str(dtype).removeprefix("torch.")).eval()
        assert ours.load_state_dict(load_file(tmp_path / "weights.safetensors")) == ([], [])
        return ours

    return load


def pair(rng, dtype, *shape):
    """The same random numbers as a Tensor and as one of PyTorch."""
    t = torch.tensor(rng.standard_normal(shape)).to(dtype)
    return Tensor(t.numpy()), t


def close(ours, theirs, dtype=torch.float64):
    ours, theirs = ours.numpy(), theirs.detach().numpy()
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


# --------------------------------------------------------------------------------------- LSTM


@every_dtype
@pytest.mark.parametrize(
    ("layers", "bidirectional", "bias", "batch_first"),
    [*itertools.product((1, 3), (False, True), (False, True), (False, True))],
)
def test_lstm(layers, bidirectional, bias, batch_first, dtype, rng, loaded):
    options = {"bias": bias, "bidirectional": bidirectional, "batch_first": batch_first}
    theirs = torch.nn.LSTM(5, 4, layers, **options)
    ours = loaded(nn.LSTM(5, 4, layers, **options), theirs, dtype)
    x, t = pair(rng, dtype, 3, 7, 5)
    ways = layers * (1 + bidirectional)
    rows = 3 if batch_first else 7
    (h0, t_h0), (c0, t_c0) = (pair(rng, dtype, ways, rows, 4) for _ in range(2))
    y, (h, c) = ours(x, (h0, c0))
    u, (t_h, t_c) = theirs(t, (t_h0, t_c0))
    for a, b in ((y, u), (h, t_h), (c, t_c)):
        close(a, b, dtype)


def test_lstm_with_a_projection_is_refused(loaded):
    with pytest.raises(ValueError, match=r"unexpected: weight_hr_l0\n  wrong: weight_hh_l0 is"):
        loaded(nn.LSTM(5, 4), torch.nn.LSTM(5, 4, proj_size=2))


# ---------------------------------------------------------------------------------- attention


def with_norm(ours, query, core):
    """What ours adds to their attention: residual and layer norm."""
    norm = ours.layer_norm
    w, b = (torch.tensor(p.numpy()) for p in (norm.weight, norm.bias))
    return F.layer_norm(query + core, query.shape[-1:], w, b, norm.eps)


def attention(rng, h=3, d=6, d_k=2, **options):
    """Ours, with a layer norm that is not the one of the beginning."""
    ours = MultiHeadAttention(h, d, d_k, d_k, **options)
    for p in ours.layer_norm.parameters():
        p.data[...] = rng.standard_normal(p.shape)
    return ours


MASKS = ["none", "causal", "each head", "pads", "pads and causal", "floating"]


def masks(kind, rng, dtype):
    """Ours, and theirs as keyword arguments; for 2 texts, 3 heads, 5 x 5. No row is all masked."""
    allowed = np.tril(np.ones((5, 5), bool))
    real = np.arange(5) < np.array([[5], [3]])  # (2, 5)
    each = (rng.random((2, 3, 5, 5)) < 0.5) | np.eye(5, dtype=bool)
    scores = rng.standard_normal((5, 5))
    return {  # a True of ours allows, and one of theirs forbids
        "none": (None, {}),
        "causal": (allowed, {"attn_mask": torch.tensor(~allowed)}),
        "each head": (each, {"attn_mask": torch.tensor(~each.reshape(6, 5, 5))}),
        "pads": (real[:, None, None], {"key_padding_mask": torch.tensor(~real)}),
        "pads and causal": (
            real[:, None, None] & allowed,
            {"key_padding_mask": torch.tensor(~real), "attn_mask": torch.tensor(~allowed)},
        ),
        "floating": (
            scores.astype(str(dtype).removeprefix("torch.")),
            {"attn_mask": torch.tensor(scores).to(dtype)},
        ),
    }[kind]


@every_dtype
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", MASKS)
def test_attention(kind, bias, dtype, rng, loaded):
    ours = attention(rng)
    norm = [p.numpy().copy() for p in ours.layer_norm.parameters()]
    theirs = torch.nn.MultiheadAttention(6, 3, bias=bias, batch_first=True)
    loaded(ours, theirs, dtype)
    for p, before in zip(ours.layer_norm.parameters(), norm, strict=True):
        np.testing.assert_array_equal(p.numpy(), before)
    mask, their_masks = masks(kind, rng, dtype)
    (q, tq), (k, tk), (v, tv) = (pair(rng, dtype, 2, 5, 6) for _ in range(3))
    y, weights = ours(q, k, v, mask=mask, need_weights=True)
    u, their_weights = theirs(tq, tk, tv, average_attn_weights=False, **their_masks)
    close(weights, their_weights, dtype)
    close(y, with_norm(ours, tq, u), dtype)


def test_keys_and_values_of_other_widths(rng, loaded):
    """Their three matrices are apart then; ours gets two linear layers of those widths."""
    ours = attention(rng)
    ours.w_k, ours.w_v = nn.Linear(4, 6), nn.Linear(3, 6)
    theirs = torch.nn.MultiheadAttention(6, 3, kdim=4, vdim=3, batch_first=True)
    assert "q_proj_weight" in theirs.state_dict()
    loaded(ours, theirs)
    (q, tq), (k, tk), (v, tv) = (pair(rng, torch.float64, 2, 5, width) for width in (6, 4, 3))
    close(ours(q, k, v), with_norm(ours, tq, theirs(tq, tk, tv)[0]))


def test_gradients_flow_alike(rng, loaded):
    ours, theirs = attention(rng), torch.nn.MultiheadAttention(6, 3, batch_first=True)
    loaded(ours, theirs)
    x, t = pair(rng, torch.float64, 2, 5, 6)
    g, tg_ = pair(rng, torch.float64, 2, 5, 6)
    (ours(x) * g).sum().backward()
    (with_norm(ours, t, theirs(t, t, t)[0]) * tg_).sum().backward()
    parts = np.split(theirs.in_proj_weight.grad.numpy(), 3)
    for layer, part in zip((ours.w_q, ours.w_k, ours.w_v), parts, strict=True):
        np.testing.assert_allclose(layer.weight.grad.numpy(), part, rtol=1e-10, atol=1e-12)


def test_their_parameters_and_our_own_state_load_too(rng):
    theirs = torch.nn.MultiheadAttention(6, 3)
    ours, other = attention(rng), attention(rng)
    ours.load_state_dict(dict(theirs.named_parameters()))  # they require gradients
    other.load_state_dict(ours.state_dict())
    for name, a in ours.state_dict().items():
        np.testing.assert_array_equal(a, other.state_dict()[name], err_msg=name)


def test_a_layer_norm_beside_their_names_is_taken(rng):
    ours, state = attention(rng), torch.nn.MultiheadAttention(6, 3).state_dict()
    ours.load_state_dict({**state, "layer_norm.weight": torch.full((6,), 3.0)})
    np.testing.assert_array_equal(ours.layer_norm.weight.numpy(), np.full(6, 3.0))


def refused(module, state, *lines):
    """One error with exactly these lines, and nothing is changed."""
    before = module.state_dict()
    with pytest.raises(ValueError, match="does not fit") as error:
        module.load_state_dict(state)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == list(lines)
    for name, a in module.state_dict().items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)


def test_what_does_not_fit_is_named_in_one_error(rng):
    ours = attention(rng)
    wide = torch.nn.MultiheadAttention(9, 3).state_dict()
    refused(
        ours, wide,
        "wrong: w_q.weight is (9, 9), should be (6, 6); w_q.bias is (9,), should be (6,); "
        "w_k.weight is (9, 9), should be (6, 6); w_k.bias is (9,), should be (6,); "
        "w_v.weight is (9, 9), should be (6, 6); w_v.bias is (9,), should be (6,); "
        "fc_out.weight is (9, 9), should be (6, 6); fc_out.bias is (9,), should be (6,)",
    )  # fmt: skip
    state = torch.nn.MultiheadAttention(6, 3, add_bias_kv=True).state_dict()
    del state["out_proj.bias"]
    state["in_proj_weight"] = torch.ones(17, 6)  # no three of a kind
    refused(
        ours, state,
        "missing: fc_out.bias",
        "unexpected: bias_k, bias_v",
        "wrong: w_q.weight is (17, 6), should be (6, 6); w_k.weight is (17, 6), should be (6, 6); "
        "w_v.weight is (17, 6), should be (6, 6)",
    )  # fmt: skip


def test_a_weight_under_both_names_is_one_too_many(rng):
    state = torch.nn.MultiheadAttention(6, 3).state_dict()
    both = {**state, **attention(rng).state_dict()}
    refused(attention(rng), both, f"unexpected: {', '.join(state)}")
    with pytest.raises(ValueError, match=r"unexpected: out_proj\.weight"):
        attention(rng).load_state_dict({**state, "fc_out.weight": np.ones((6, 6))})


def test_not_strict_tells_and_loads_the_rest(rng):
    state = torch.nn.MultiheadAttention(6, 3).state_dict()
    del state["in_proj_bias"]
    state["more"] = torch.ones(1)
    ours = attention(rng)
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["w_q.bias", "w_k.bias", "w_v.bias"], ["more"])
    np.testing.assert_array_equal(ours.w_k.weight.numpy(), state["in_proj_weight"][6:12].numpy())


# --------------------------------------------------------------------------- the encoder layer


@every_dtype
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer(norm_first, activation, bias, dtype, rng, loaded):
    options = {"activation": activation, "norm_first": norm_first}
    theirs = torch.nn.TransformerEncoderLayer(
        6, 3, 11, bias=bias, batch_first=True, layer_norm_eps=1e-3, **options
    )
    ours = loaded(TransformerBlock(6, 3, 11, eps=1e-3, **options), theirs, dtype)
    x, t = pair(rng, dtype, 2, 5, 6)
    real = np.arange(5) < np.array([[5], [3]])
    causal = np.tril(np.ones((5, 5), bool))
    t.requires_grad = True  # else they compute in another way, which has its own bugs
    for mask, their_masks in (
        (None, {}),
        (real[:, None, None], {"src_key_padding_mask": torch.tensor(~real)}),
        (causal, {"src_mask": torch.tensor(~causal)}),
    ):
        close(ours(x, mask=mask), theirs(t, **their_masks), dtype)


def test_an_encoder_layer_of_another_kind_is_told():
    ours = TransformerBlock(6, 3, 11)
    state = torch.nn.TransformerEncoderLayer(6, 3, 12).state_dict()
    del state["norm2.bias"]
    state["norm3.weight"] = torch.ones(6)
    refused(
        ours, state,
        "missing: layer_norm.bias",
        "unexpected: norm3.weight",
        "wrong: linear1.weight is (12, 6), should be (11, 6); linear1.bias is (12,), should be "
        "(11,); linear2.weight is (6, 12), should be (6, 11)",
    )  # fmt: skip
    state = torch.nn.TransformerDecoderLayer(6, 3, 11).state_dict()  # it has two attentions
    with pytest.raises(ValueError, match=r"unexpected: .*multihead_attn\.in_proj_weight.*norm3"):
        ours.load_state_dict(state)


def test_our_own_states_pass_unchanged():
    block = TransformerBlock(6, 3, 11)
    for translate, state in (
        (transformer_encoder_layer, block.state_dict()),
        (multi_head_attention, block.multihead_attn.state_dict()),
        (multi_head_attention, {}),
        (transformer_encoder_layer, {0: 1}),
    ):
        assert translate(state) == state
        assert list(translate(state)) == list(state)
