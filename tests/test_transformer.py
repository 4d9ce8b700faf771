"""A block is the papers' formula, and an encoder a stack of them that no pad can disturb."""

import numpy as np
import pytest
from words import close

import tinygrad_mha as tg
from tinygrad_mha import Tensor, nn
from tinygrad_mha.models.encoder_classifier import EncoderClassifier
from tinygrad_mha.models.transformer import TransformerBlock, TransformerEncoder


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeded(float64):
    tg.manual_seed(0)


def encoder(**given):
    options = {"d_model": 8, "h": 2, "num_layers": 2, "d_ff": 12, "max_positions": 40} | given
    made = TransformerEncoder(11, **options)
    rng = np.random.default_rng(7)  # weights of a size at which every part counts
    for p in made.parameters():
        p.data = rng.standard_normal(p.shape) * 0.4
    return made.eval()


# ------------------------------------------------------------------------------ the formula


def normalised(x, layer):
    z = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.eps)
    return z * layer.weight.numpy() + layer.bias.numpy()


def projected(x, layer):
    return x @ layer.weight.numpy().T + layer.bias.numpy()


def bent(x, how):
    if how == "relu":
        return np.maximum(x, 0)
    if how == "gelu_tanh":
        return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
    return x * (tg.erf(x / np.sqrt(2)) + 1) / 2


def attention(x, layer, mask=None):
    """All heads of a MultiHeadAttention, without residual and norm."""
    q, k, v = (np.split(projected(x, w), layer.h, -1) for w in (layer.w_q, layer.w_k, layer.w_v))
    heads = []
    for a, b, c in zip(q, k, v, strict=True):
        scores = a @ b.swapaxes(-1, -2) / np.sqrt(a.shape[-1])
        scores = scores if mask is None else np.where(mask, scores, -np.inf)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(e / e.sum(-1, keepdims=True) @ c)
    return projected(np.concatenate(heads, -1), layer.fc_out)


def block_by_hand(x, block, mask=None):
    attend = block.multihead_attn
    hidden = lambda x: projected(bent(projected(x, block.linear1), block.activation), block.linear2)
    if block.norm_first:
        x = x + attention(normalised(x, attend.layer_norm), attend, mask)
        return x + hidden(normalised(x, block.layer_norm))
    x = normalised(x + attention(x, attend, mask), attend.layer_norm)
    return normalised(x + hidden(x), block.layer_norm)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_block_is_the_formula(rng, norm_first, activation):
    block = TransformerBlock(6, 3, 10, eps=1e-3, norm_first=norm_first, activation=activation)
    for p in block.parameters():
        p.data = rng.standard_normal(p.shape)
    x = rng.standard_normal((2, 5, 6))
    close(block.eval()(Tensor(x)).numpy(), block_by_hand(x, block))
    causal = np.tri(5, dtype=bool)
    close(block(Tensor(x), is_causal=True).numpy(), block_by_hand(x, block, causal))
    mask = rng.random((2, 5, 5)) < 0.7
    mask[..., 0] = True
    close(block(Tensor(x), mask=mask[:, None]).numpy(), block_by_hand(x, block, mask))


@pytest.mark.parametrize("kinds", [0, 2])
@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_is_a_stack_of_blocks(rng, norm_first, kinds):
    encode = encoder(norm_first=norm_first, token_types=kinds)
    ids, types = rng.integers(0, 11, (3, 5)), rng.integers(0, 2, (3, 5))
    x = encode.word_embeddings.weight.numpy()[ids] + encode.position_embeddings.weight.numpy()[:5]
    if kinds:
        x = x + encode.token_type_embeddings.weight.numpy()[types]
    x = x if norm_first else normalised(x, encode.layer_norm)
    for block in encode.layers:
        x = block_by_hand(x, block)
    x = normalised(x, encode.layer_norm) if norm_first else x
    close(encode(ids, token_types=types if kinds else None).numpy(), x)
    if kinds:
        zeros = encode(ids, token_types=np.zeros_like(ids)).numpy()
        close(encode(ids).numpy(), zeros)


def test_what_is_recorded_is_one_node_for_each_layer(rng):
    """Bias and GELU are one op, a residual and its norm another."""
    y = encoder()(rng.integers(0, 11, (3, 5)))
    names = [t.node.op.name for t in tg.tensor.history([y])]
    count = {name: names.count(name) for name in names}
    assert count["linear"] == 2 * 5
    for name in ("linear_gelu", "scaled_dot_product_attention"):
        assert count[name] == 2
    assert count["add_layer_norm"] == 2 * 2
    assert count["layer_norm"] == 1


# -------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("norm_first", [False, True])
def test_gradients_of_every_weight(rng, norm_first):
    """Against central differences in a random direction, first and second order."""
    model = EncoderClassifier(encoder(norm_first=norm_first), 3, dropout=0.2).train()
    params = model.parameters()
    ids, lengths, goal = rng.integers(0, 11, (4, 6)), np.array([6, 3, 1, 5]), np.array([0, 2, 1, 1])
    directions = [rng.standard_normal(p.shape) for p in params]

    def loss():
        with tg.random.mask_stream(3, 1):  # dropout, the same every time
            return tg.cross_entropy(model(ids, lengths), goal)

    def slope(order):
        """Of the loss, or of its slope, along the direction."""
        gs = tg.grad(loss(), params, create_graph=order == 2)
        along = sum((g * d).sum() for g, d in zip(gs, directions, strict=True))
        if order == 1:
            return along.item()
        gs = tg.grad(along, params, allow_unused=True)
        pairs = zip(gs, directions, strict=True)
        return sum((g * d).sum().item() for g, d in pairs if g is not None)

    def moved(step, f):
        before = [p.data for p in params]
        for p, d in zip(params, directions, strict=True):
            p.data = p.data + step * d
        y = f()
        for p, a in zip(params, before, strict=True):
            p.data = a
        return y

    h = 1e-5
    for order, f in ((1, lambda: loss().item()), (2, lambda: slope(1))):
        difference = (moved(h, f) - moved(-h, f)) / (2 * h)
        assert slope(order) == pytest.approx(difference, rel=2e-7, abs=1e-7)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pads_and_company_change_nothing(rng, norm_first, pooling):
    """Scores and every gradient are the same alone, padded, and in any batch."""
    model = EncoderClassifier(encoder(norm_first=norm_first), 3, pooling=pooling).eval()
    texts = [rng.integers(0, 11, n) for n in (1, 4, 7)]

    def of(rows, width):
        ids = np.full((len(rows), width), 9)
        for row, k in zip(ids, rows, strict=True):
            row[: len(texts[k])] = texts[k]
        y = model(ids, np.array([len(texts[k]) for k in rows]))
        g = np.stack([[1.0, -2.0, k + 0.5] for k in rows])
        return y.numpy(), [d.numpy() for d in tg.grad(y, model.parameters(), g)]

    y, gs = of([0, 1, 2], 7)
    z, hs = of([2, 0, 1], 33)
    close(z[[1, 2, 0]], y)
    for a, b in zip(gs, hs, strict=True):
        close(a, b, rtol=1e-10)
    alone = [of([k], len(texts[k])) for k in range(3)]
    close(np.concatenate([y for y, _ in alone]), y)
    for k, g in enumerate(gs):
        close(sum(one[k] for _, one in alone), g, rtol=1e-10)


def test_no_token_sees_a_later_one(rng):
    encode = encoder(norm_first=True)
    ids = rng.integers(0, 11, (2, 6))
    other = ids.copy()
    other[:, 4:] = (ids[:, 4:] + 1) % 11
    y, z = (encode(i, is_causal=True).numpy() for i in (ids, other))
    close(y[:, :4], z[:, :4])
    assert np.abs(y[:, 4:] - z[:, 4:]).max() > 0.01


# ---------------------------------------------------------------------------------- dropout


def test_each_dropout_has_its_place(rng):
    """The attention's probability is its own; nothing is dropped in evaluation."""
    x = Tensor(rng.standard_normal((2, 5, 8)))
    for p, p_attention, alike in ((0.0, 0.0, True), (0.0, 0.5, False), (0.5, 0.0, False)):
        block = TransformerBlock(8, 2, 12, dropout=p, attention_dropout=p_attention)
        y, z = block.train()(x).numpy(), block.eval()(x).numpy()
        assert np.array_equal(y, z) == alike
    assert block.multihead_attn._p() == 0.0
    block.train()
    assert block.multihead_attn._p() == 0.0  # the last one's
    assert TransformerBlock(8, 2, 12, dropout=0.3).multihead_attn._p() == 0.3


# ------------------------------------------------------------------------------- the device


def test_the_device_computes_the_same(rng, cupy):
    ids, lengths, goal = rng.integers(0, 11, (4, 6)), np.array([6, 3, 1, 5]), np.array([0, 2, 1, 1])

    def step(device):
        tg.manual_seed(0)
        tg.set_default_device(device)
        try:
            model = EncoderClassifier(encoder(), 3, dropout=0.2)
            assert type(model.fc.weight.data) is (np.ndarray if device == "cpu" else cupy.ndarray)
        finally:
            tg.set_default_device("cpu")
        model.to(device).train()
        optimizer = tg.optim.AdamW(model.parameters(), lr=1e-2)
        for k in range(2):
            with tg.random.mask_stream(3, k):
                loss = tg.cross_entropy(model(ids, lengths), goal)
            for p, g in zip(optimizer.params, tg.grad(loss, optimizer.params), strict=True):
                p.grad = g
            optimizer.step()
        return loss.item(), model.state_dict()

    (a, here), (b, there) = step("cpu"), step("cuda")
    assert a == pytest.approx(b, rel=1e-10)
    for name, x in here.items():
        close(there[name], x, rtol=1e-8, atol=1e-9)


# ------------------------------------------------------------------------------ small print


def test_weights_begin_as_in_bert():
    made = TransformerEncoder(500, d_model=32, h=2, num_layers=1)
    for name, p in made.named_parameters():
        x = p.numpy()
        if "layer_norm" in name:
            assert (x == (1 if name.endswith("weight") else 0)).all()
        elif name.endswith("bias"):
            assert not x.any()
        else:
            assert x.std() == pytest.approx(0.02, rel=0.2)


def test_undrawn_layers_are_zeros_and_draw_nothing():
    tg.manual_seed(3)
    first = nn.Linear(2, 2).weight.numpy().copy()
    tg.manual_seed(3)
    with nn.undrawn():
        blank = TransformerEncoder(9, d_model=4, h=2, num_layers=1)
    assert not any(p.numpy().any() for n, p in blank.named_parameters() if "layer_norm" not in n)
    np.testing.assert_array_equal(nn.Linear(2, 2).weight.numpy(), first)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e(np.zeros((1, 41), int)), r"a text of 41 tokens, but there are 40 positions"),
        (lambda e: e(np.zeros(3, int)), r"ids should be integers \(B, T\), not int64 \(3,\)"),
        (lambda e: e(np.zeros((1, 3))), r"ids should be integers"),
        (lambda e: e(np.full((1, 3), 11)), r"id 11 at \[0, 0\] is outside the table"),
        (lambda e: e(np.zeros((1, 3), int), mask=np.ones((1, 2), bool)), r"mask \(1, 2\) bool"),
        (lambda e: e(np.zeros((1, 3), int), mask=np.ones((1, 3), int)), r"should be booleans"),
        (lambda e: e(np.zeros((1, 3), int), token_types=[[0, 1]]), r"token_types \(1, 2\) should"),
    ],
)
def test_errors(call, message):
    with pytest.raises((ValueError, IndexError), match=message):
        call(encoder())


def test_errors_of_shapes_that_cannot_be():
    with pytest.raises(ValueError, match="d_model 8 is not divisible by 3 heads"):
        TransformerBlock(8, 3, 4)
    with pytest.raises(ValueError, match="activation 'elu' is none of gelu, gelu_tanh, relu"):
        TransformerBlock(8, 2, 4, activation="elu")
    with pytest.raises(ValueError, match="pooling 'last' is none of mean, cls"):
        EncoderClassifier(encoder(), 2, pooling="last")
    with pytest.raises(ValueError, match="token_types: this encoder knows none"):
        encoder(token_types=0)(np.zeros((1, 2), int), token_types=np.zeros((1, 2), int))
