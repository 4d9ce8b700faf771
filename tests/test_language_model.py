"""The language model: what it sees, what its cache remembers, what it learns and writes."""

from collections import Counter
from contextlib import contextmanager
from itertools import count, pairwise

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha import Tensor, optim
from tinygrad_mha.models import LanguageModel, language_model
from tinygrad_mha.models.key_value_cache import KeyValueCache
from tinygrad_mha.models.language_model import probabilities
from tinygrad_mha.threads import one_blas_thread

V, ROOM = 11, 12


def tiny(num_layers=2, **options):
    """A model with large weights, so that what a token sees makes a difference."""
    tg.manual_seed(0)
    options = {"d_model": 8, "h": 2, "max_positions": ROOM, "dropout": 0.0, **options}
    model = LanguageModel(V, num_layers=num_layers, **options)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data[...] = rng.standard_normal(p.shape) * 0.5
    return model


@pytest.fixture
def ids():
    return np.random.default_rng(1).integers(0, V, (3, 7))


@contextmanager
def in_place(model, names, values):
    """Inside, other Tensors stand in the places of the parameters of these names."""
    before = []
    for name, tensor in zip(names, values, strict=True):
        *path, last = name.split(".")
        owner = model
        for part in path:
            owner = owner[int(part)] if isinstance(owner, list) else getattr(owner, part)
        before.append((owner, last, getattr(owner, last)))
        setattr(owner, last, tensor)
    try:
        yield
    finally:
        for owner, last, parameter in before:
            setattr(owner, last, parameter)


# ------------------------------------------------------------------------------ what is computed


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cut", [[1] * 7, [7], [3, 4], [1, 2, 3, 1], [5, 1, 1], [2, 5]])
def test_the_cache_changes_no_logit(ids, cut):
    model = tiny()
    whole = model(ids).numpy()
    caches = [KeyValueCache(ROOM) for _ in model.encoder.layers]
    ends = np.cumsum([0, *cut]).tolist()
    with tg.no_grad():
        parts = [model(ids[:, a:b], caches).numpy() for a, b in pairwise(ends)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=0, atol=1e-12)
    assert [cache.length for cache in caches] == [7, 7]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("place", range(7))
def test_no_token_sees_a_later_one(ids, place):
    model, other = tiny(), ids.copy()
    other[:, place] = (other[:, place] + 1) % V
    before, after = model(ids).numpy(), model(other).numpy()
    np.testing.assert_array_equal(before[:, :place], after[:, :place])
    assert (np.abs(before - after)[:, place:].max(axis=(0, 2)) > 1e-3).all()  # but the others do


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("place", range(7))
def test_no_gradient_reaches_a_later_token(ids, place, monkeypatch):
    model = tiny()
    words = Tensor(model.encoder.word_embeddings(ids).data, requires_grad=True)
    monkeypatch.setattr(type(model.encoder.word_embeddings), "forward", lambda *_: words)
    w = np.random.default_rng(2).standard_normal((3, V))
    (model(ids)[:, place] * w).sum().backward()
    reached = np.abs(words.grad.numpy()).max(axis=(0, 2))
    assert (reached[: place + 1] > 1e-3).all()
    assert (reached[place + 1 :] == 0).all()


@pytest.mark.usefixtures("float64")
def test_the_loss_by_hand(ids):
    model = tiny()
    p = tg.softmax(model(ids)).numpy()
    nats = [[-np.log(p[b, t, ids[b, t + 1]]) for t in range(6)] for b in range(3)]
    np.testing.assert_allclose(model.loss(ids).item(), np.mean(nats), rtol=1e-12)
    np.testing.assert_allclose(model.loss(ids, reduction="none").numpy(), nats, rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("kind", [list, np.array, tg.Tensor])
def test_pads_change_neither_the_loss_nor_a_gradient(ids, pad, kind):
    model, lengths = tiny(), [7, 1, 4]
    rows = [model.loss(ids[k : k + 1, :n], reduction="sum") for k, n in ((0, 7), (2, 4))]
    alone = (rows[0] + rows[1]) * (1 / 9)  # 6 + 0 + 3 tokens to foretell
    wanted = tg.grad(alone, model.parameters())
    padded = np.full((3, 10), pad)
    for row, text, n in zip(padded, ids, lengths, strict=True):
        row[:n] = text[:n]
    lengths = np.array(lengths) if kind is tg.Tensor else kind(lengths)
    loss = model.loss(tg.Tensor(padded) if kind is tg.Tensor else padded, lengths)
    np.testing.assert_allclose(loss.item(), alone.item(), rtol=1e-13)
    for (name, _), g, w in zip(
        model.named_parameters(), tg.grad(loss, model.parameters()), wanted, strict=True
    ):
        np.testing.assert_allclose(g.numpy(), w.numpy(), rtol=0, atol=1e-13, err_msg=name)
    assert model.loss(padded, [1, 0, 1]).item() == 0  # nothing to foretell


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("order", [1, 2])
def test_gradients_of_the_loss(order):
    model, ids = tiny(1, d_model=4, d_ff=5, max_positions=4), np.array([[3, 1, 4, 1], [2, 7, 1, 8]])
    names = [name for name, _ in model.named_parameters()]

    def loss(*values):
        with in_place(model, names, values):
            return model.loss(ids, [4, 3])

    assert tg.gradcheck(loss, [p.numpy() for p in model.parameters()], order=order)


@pytest.mark.usefixtures("float64")
def test_the_table_of_words_gets_both_gradients(ids):
    model = tiny()
    assert sum(p is model.encoder.word_embeddings.weight for p in model.parameters()) == 1
    table = model.encoder.word_embeddings.weight
    [both] = tg.grad(model.loss(ids), [table])
    read, written = (Tensor(table.data.copy(), requires_grad=True) for _ in range(2))
    with in_place(model, ["encoder.word_embeddings.weight"], [read]):
        hidden = model.encoder(ids[:, :-1], is_causal=True)
    logits = tg.linear(hidden, written)
    apart = tg.grad(tg.cross_entropy(logits, ids[:, 1:]), [read, written])
    assert all(np.abs(g.numpy()).max() > 1e-3 for g in apart)
    np.testing.assert_allclose(both.numpy(), sum(g.numpy() for g in apart), rtol=0, atol=1e-14)


@pytest.mark.torch
@pytest.mark.usefixtures("float64")
def test_agreement_with_pytorch(ids, request):
    torch = pytest.importorskip("torch", reason="needs PyTorch (extra torch)")
    model = tiny()
    layer = torch.nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True,
        dtype=torch.float64,
    )  # fmt: skip
    norm = torch.nn.LayerNorm(8, dtype=torch.float64)
    stack = torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
    words, places = (torch.nn.Embedding(n, 8, dtype=torch.float64) for n in (V, ROOM))

    encoder = model.encoder
    pairs = [
        (encoder.word_embeddings.weight, words.weight),
        (encoder.position_embeddings.weight, places.weight),
        (encoder.layer_norm.weight, norm.weight), (encoder.layer_norm.bias, norm.bias),
    ]  # fmt: skip
    for ours, theirs in zip(encoder.layers, stack.layers, strict=True):
        attend, n = ours.multihead_attn, theirs.self_attn
        inner = [
            (attend.fc_out, n.out_proj), (attend.layer_norm, theirs.norm1),
            (ours.linear1, theirs.linear1), (ours.linear2, theirs.linear2),
            (ours.layer_norm, theirs.norm2),
        ]  # fmt: skip
        pairs += [(getattr(a, x), getattr(b, x)) for a, b in inner for x in ("weight", "bias")]
        for k, part in enumerate((attend.w_q, attend.w_k, attend.w_v)):  # one matrix over there
            pairs += [
                (part.weight, (n.in_proj_weight, slice(8 * k, 8 * k + 8))),
                (part.bias, (n.in_proj_bias, slice(8 * k, 8 * k + 8))),
            ]
    assert len(pairs) == len(model.parameters())
    pairs = [(a, b if isinstance(b, tuple) else (b, slice(None))) for a, b in pairs]
    with torch.no_grad():
        for ours, (whole, part) in pairs:
            whole[part] = torch.tensor(ours.numpy())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other, which takes minutes on a busy machine
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    t = torch.tensor(ids[:, :-1])
    mask = torch.nn.Transformer.generate_square_subsequent_mask(t.shape[1], dtype=torch.float64)
    x = stack(words(t) + places.weight[: t.shape[1]], mask=mask, is_causal=True)
    logits = x @ words.weight.T
    np.testing.assert_allclose(
        model(ids[:, :-1]).numpy(), logits.detach().numpy(), rtol=0, atol=1e-10
    )  # fmt: skip
    targets = torch.tensor(ids[:, 1:])
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, V), targets.reshape(-1))
    ours = model.loss(ids)
    np.testing.assert_allclose(ours.item(), loss.item(), rtol=1e-10)
    loss.backward()
    ours.backward()
    for k, (ours, (whole, part)) in enumerate(pairs):
        np.testing.assert_allclose(
            ours.grad.numpy(), whole.grad[part].numpy(), rtol=0, atol=1e-10, err_msg=str(k)
        )


# --------------------------------------------------------------------------------- what is drawn

P = np.array([[0.4, 0.1, 0.3, 0.2]])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [0.4, 0.1, 0.3, 0.2]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [0.16 / 0.3, 0.01 / 0.3, 0.09 / 0.3, 0.04 / 0.3]),
        ({"temperature": 1e-320}, [1, 0, 0, 0]),
        ({"temperature": 1e9}, [0.25, 0.25, 0.25, 0.25]),
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 9}, [0.4, 0.1, 0.3, 0.2]),
        ({"top_p": 1.0}, [0.4, 0.1, 0.3, 0.2]),
        ({"top_p": 0.8}, [4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_p": 0.6}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.3}, [1, 0, 0, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        # of 4/9, 3/9 and 2/9 the first two have a share of 7/9: top_p counts in what top_k left
        ({"top_k": 3, "top_p": 0.75}, [4 / 7, 0, 3 / 7, 0]),
        # sharper first: 0.16 and 0.09 are 0.83 of 0.3
        ({"temperature": 0.5, "top_p": 0.8}, [16 / 25, 0, 9 / 25, 0]),
    ],
)
def test_the_distribution_of_the_next_token(options, wanted):
    p = probabilities(np.log(P), **options)
    np.testing.assert_allclose(p, [wanted], rtol=1e-8, atol=1e-15)
    assert (p[p < 1e-9] == 0).all()
    assert p.dtype == np.float64


def test_half_of_a_distribution_in_halves_is_its_first():
    """Exact sums: 0.5 is enough for top_p = 0.5, but not for a little more."""
    logits = np.log([[0.25, 0.5, 0.25]])
    np.testing.assert_allclose(probabilities(logits, top_p=0.5), [[0, 1, 0]])
    np.testing.assert_allclose(probabilities(logits, top_p=0.51), [[1 / 3, 2 / 3, 0]])


def test_of_equals_the_first_ones_remain():
    logits = np.array([[1.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    wanted = [[0, 0.5, 0.5, 0], [0.5, 0.5, 0, 0]]
    np.testing.assert_array_equal(probabilities(logits, top_k=2), wanted)
    wanted = [[0, 1, 0, 0], [1, 0, 0, 0]]
    np.testing.assert_array_equal(probabilities(logits, temperature=0), wanted)


def test_rows_do_not_mix_and_large_logits_are_finite():
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, 1e4, 1e4], [0.0, -np.inf, 0.0]])
    wanted = [[1, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]
    np.testing.assert_array_equal(probabilities(logits), wanted)


def test_tokens_are_drawn_as_often_as_they_are_probable():
    p = np.repeat(np.array([[0.0, 0.2, 0.0, 0.5, 0.3, 0.0]]), 20_000, axis=0)
    seen = Counter(language_model._draw(p, np.random.default_rng(0)).tolist())
    assert set(seen) == {1, 3, 4}
    for token, share in ((1, 0.2), (3, 0.5), (4, 0.3)):  # four standard deviations
        assert abs(seen[token] / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


class Edge:
    """A generator that draws one number for ever."""

    def __init__(self, number):
        self.number = number

    def random(self, n):
        return np.full(n, self.number)


def test_the_ends_of_the_line():
    """What has no probability is not drawn, however the probabilities round."""
    for ones in (1, 1 - 2**-52, 1 + 2**-51):
        p = np.array([[0.0, 0.125, 0.625, 0.25, 0.0]]) * ones
        assert language_model._draw(p, Edge(0.0)) == [1]
        assert language_model._draw(p, Edge(np.nextafter(1, 0))) == [3]
        assert language_model._draw(p, Edge(0.125)) == [2]


# ------------------------------------------------------------------------------ what is generated


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "options",
    [{"temperature": 0}, {}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.8}, {"stop": 3}],
)
def test_generation_with_and_without_the_cache(ids, options):
    model = tiny()
    told = [
        model.generate(ids[:, :2], 9, seed=5, use_cache=use_cache, **options)
        for use_cache in (True, False)
    ]
    np.testing.assert_array_equal(*told)
    assert told[0].shape == (3, 11)
    np.testing.assert_array_equal(told[0][:, :2], ids[:, :2])


@pytest.mark.usefixtures("float64")
def test_each_token_is_drawn_from_what_the_model_says(ids):
    """The same numbers, drawn here from the logits of whole texts."""
    model, options = tiny(), {"temperature": 0.8, "top_k": 6, "top_p": 0.9}
    text, rng = ids[:, :3], np.random.default_rng(7)
    for _ in range(6):
        p = probabilities(model(text).numpy()[:, -1], **options)
        line = np.cumsum(p, axis=1)
        new = [int(np.argmax(row > u)) for row, u in zip(line, rng.random(3), strict=True)]
        text = np.concatenate([text, np.array(new)[:, None]], axis=1)
    np.testing.assert_array_equal(model.generate(ids[:, :3], 6, seed=7, **options), text)


def test_greedy_takes_the_most_probable_token(ids):
    model = tiny()
    text = model.generate(ids, 5, temperature=0)
    for t in range(7, 12):
        np.testing.assert_array_equal(text[:, t], model(text[:, :t]).numpy()[:, -1].argmax(-1))
    np.testing.assert_array_equal(model.generate(ids, 5, temperature=0, seed=1), text)
    np.testing.assert_array_equal(model.generate(ids, 5, top_k=1, seed=1), text)


def test_a_seed_reproduces(ids):
    model = tiny()
    first, again, longer = (model.generate(ids[:, :1], n, seed=3) for n in (6, 6, 11))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, longer[:, :7])
    assert (first != model.generate(ids[:, :1], 6, seed=4)).any()
    assert len({model.generate([1], 11).tobytes() for _ in range(20)}) > 1


def test_stop_ends_a_text_and_then_all_of_them(ids):
    model = tiny()
    free = model.generate(ids[:, :2], 10, temperature=2, seed=1)
    ends, stop = ends_of_three_lengths(free)
    text = model.generate(ids[:, :2], 10, temperature=2, seed=1, stop=stop)
    assert text.shape == (3, max(ends))
    for row, alone, end in zip(text, free, ends, strict=True):
        np.testing.assert_array_equal(row[:end], alone[:end])
        assert (row[end:] == stop).all()


def ends_of_three_lengths(texts):
    """A token that occurs at three different places after the prompts, and where each text ends."""
    for stop in range(V):
        ends = [row.tolist().index(stop, 2) + 1 for row in texts if stop in row[2:]]
        if len(ends) == len(set(ends)) == 3 and max(ends) < 12:
            return ends, stop
    pytest.fail("choose another seed")


def test_the_prompt_may_contain_the_stop_token():
    text = tiny().generate([3, 3], 4, temperature=0, stop=3)
    assert text.shape[0] > 2


@pytest.mark.parametrize("use_cache", [True, False])
def test_with_the_cache_a_step_reads_one_token(ids, use_cache, monkeypatch):
    model, rows = tiny(), []
    forward = tg.linear.forward

    def counted(x, *args):
        rows.append(x.shape[:2])
        return forward(x, *args)

    monkeypatch.setattr(tg.linear, "forward", counted)
    model.generate(ids[:2, :4], 5, seed=0, use_cache=use_cache)
    each = 2 * 5 + 1  # q, k, v, fc_out and linear2 of two layers, and the output
    read = [(2, 4), *([(2, 1)] * 4 if use_cache else [(2, n) for n in (5, 6, 7, 8)])]
    assert rows == [shape for shape in read for _ in range(each)]


def test_the_modes_are_those_of_before(ids, monkeypatch):
    model = tiny(dropout=0.5)
    model.train()
    model.encoder.layers[1].eval()
    modes, forward, graphs = [m.training for m in model.modules()], LanguageModel.forward, []

    def seen(*args):
        logits = forward(*args)
        graphs.append(logits.requires_grad)
        return logits

    monkeypatch.setattr(LanguageModel, "forward", seen)
    first, second = (model.generate(ids, 3, seed=0) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # without dropout
    assert graphs == [False] * 6
    assert [m.training for m in model.modules()] == modes
    with pytest.raises(IndexError):
        model.generate([V], 3)
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert model(ids).requires_grad  # recording is on again


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([1, 2, 3], {"max_new_tokens": 10}, r"3 tokens and 10 new ones: a text can have 1 to 12"),
        ([1] * 13, {"max_new_tokens": 0}, r"13 tokens and 0 new ones"),
        ([1], {"max_new_tokens": -1}, r"1 tokens and -1 new ones"),
        ([[1, 2], [1, 2, 3], [4, 5]], {}, r"have 2, 3 tokens: generate those of one length at a"),
        ([], {}, r"at least one token, not float64 \(0,\)"),
        (np.zeros((2, 0), int), {}, r"at least one token, not int64 \(2, 0\)"),
        ([1.0], {}, r"integers \(T,\) or \(B, T\) .*not float64 \(1,\)"),
        ([[[1]]], {}, r"not int64 \(1, 1, 1\)"),
        ([1], {"temperature": -0.1}, r"temperature should be a number from 0 on, not -0.1"),
        ([1], {"temperature": np.nan}, r"temperature .* not nan"),
        ([1], {"temperature": np.inf}, r"temperature .* not inf"),
        ([1], {"top_k": 0}, r"top_k should be 1 or more, not 0"),
        ([1], {"top_p": 0}, r"top_p should be above 0 and at most 1, not 0"),
        ([1], {"top_p": 1.5}, r"top_p should be above 0 and at most 1, not 1.5"),
    ],
    ids=count(),
)  # fmt: skip
def test_what_makes_no_sense_is_said_before_any_work(prompt, options, message, monkeypatch):
    model = tiny()
    monkeypatch.setattr(LanguageModel, "forward", lambda *_: pytest.fail("it went to work"))
    with pytest.raises(ValueError, match=message):
        model.generate(prompt, **{"max_new_tokens": 2, **options})


def test_errors_of_the_loss(ids):
    model = tiny()
    with pytest.raises(ValueError, match=r"ids \(3, 1\): a text of 1 tokens has no next token"):
        model.loss(ids[:, :1])
    with pytest.raises(ValueError, match=r"lengths \(2,\) should be 3 integers"):
        model.loss(ids, [1, 2])
    with pytest.raises(ValueError, match=r"lengths \[1, 2, 8\] should be between 0 and 7"):
        model.loss(ids, [1, 2, 8])
    with pytest.raises(ValueError, match=r"a text of 13 tokens, but there are 12 positions"):
        model(np.zeros((1, 13), int))


def test_a_model_that_says_nan_is_not_drawn_from():
    model = tiny()
    model.encoder.layer_norm.bias.data[0] = np.nan
    for temperature in (0, 1):
        with pytest.raises(FloatingPointError, match="logits of the next token are NaN"):
            model.generate([1], 1, temperature=temperature)


# ------------------------------------------------------------------------------- what is learned


def test_it_learns_to_copy():
    """Random letters, a separator, the same letters again: this takes attention to places."""
    tg.manual_seed(0)
    n, letters = 4, 6
    model = LanguageModel(letters + 1, 32, 2, 2, max_positions=2 * n + 1, dropout=0.0)
    optimizer = optim.AdamW(model.parameters(), lr=5e-3)
    schedule = optim.WarmupCosine(optimizer, warmup=20, total=250)
    rng = np.random.default_rng(0)

    def texts(count):
        x = rng.integers(0, letters, (count, n))
        return np.concatenate([x, np.full((count, 1), letters), x], axis=1)

    def copied(ids):
        return model.loss(ids, reduction="none")[:, n:].mean()  # what can be known

    with one_blas_thread():
        for _ in range(250):
            loss = copied(texts(32))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    new = texts(100)
    assert copied(new).item() < 0.02
    written = model.generate(new[:, : n + 1], n, temperature=0)
    assert (written == new).mean() > 0.99


# --------------------------------------------------------------------------------- on the device


def test_on_the_device_as_on_the_host(cupy, ids):
    """Forward, a training step, generation: the host's numbers, and its text from one seed."""
    told = {}
    for device in ("cpu", "cuda"):
        model = tiny(dropout=0.1).to(device)
        logits = model.eval()(ids).numpy()
        optimizer = optim.AdamW(model.train().parameters(), lr=1e-2, eps=1e-3)
        tg.manual_seed(1)  # the masks of dropout
        loss = model.loss(ids, [7, 4, 1])
        loss.backward()
        optimizer.step()
        text = model.generate(ids[:, :3], 8, temperature=0.9, top_p=0.95, seed=2, stop=5)
        told[device] = logits, loss.item(), text, model.state_dict()
        assert isinstance(text, np.ndarray)
    (y, loss, text, state), (y2, loss2, text2, state2) = told.values()
    np.testing.assert_allclose(y, y2, rtol=0, atol=1e-5)
    np.testing.assert_allclose(loss, loss2, rtol=1e-5)
    np.testing.assert_array_equal(text, text2)
    for name, a in state.items():
        np.testing.assert_allclose(a, state2[name], rtol=0, atol=1e-4, err_msg=name)
