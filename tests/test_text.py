"""Tokens, vocabulary, splits and batches."""

import json
import re
import time
import unicodedata
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_mha.models import text as text_module
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.errors import InputError
from tinygrad_mha.models.text import (
    BucketedBatches,
    LabelSet,
    Vocabulary,
    pad_batch,
    remove_duplicates,
    stratified_split,
    tokenize,
)

FEW = settings(deadline=None, max_examples=40)
any_text = st.text(st.characters(exclude_categories=[]), max_size=40)  # lone surrogates too


# --- tokenize --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        (" \t\n\u00a0\u3000", []),
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("don't DON’T 'tis dogs'", ["don't", "don't", "'", "tis", "dogs", "'"]),
        ("rock'n'roll", ["rock'n'roll"]),
        ("C++ 3.14 a_b #tag", ["c", "+", "+", "3", ".", "14", "a_b", "#", "tag"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("東京タワーへ行く!", list("東京タワーへ行く!")),
        ("abc漢字def", ["abc", "漢", "字", "def"]),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # the vowel signs are marks, which \w leaves out
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # a Persian word has a zero-width joiner inside
        ("ที่นี่", ["ที่", "นี่"]),
        ("I ❤\ufe0f❤ 👍🏽!!", ["i", "❤", "❤", "👍", "🏽", "!", "!"]),
        ("👩\u200d💻", ["👩", "💻"]),
        ("a\u200bb\ufeff", ["a", "b"]),
        ("\ud800x", ["\ufffd", "x"]),
        ("<pad> <unk>", ["<", "pad", ">", "<", "unk", ">"]),
    ],
)
def test_words(text, tokens):
    assert tokenize(text, "word") == tokens


def test_characters():
    assert tokenize("Ab e\u0301\n", "char") == ["A", "b", " ", "é", "\n"]
    assert tokenize("\ud83d", "char") == ["\ufffd"]
    assert tokenize("", "char") == []


def test_unknown_level():
    with pytest.raises(ValueError, match="level is 'words'; the levels are word, char"):
        tokenize("a", "words")


@FEW
@given(any_text)
def test_no_character_is_lost(text):
    """The tokens are the casefolded text without blanks and invisible characters."""
    whole = "".join(tokenize(text, "char"))
    folded = unicodedata.normalize("NFC", whole.translate(text_module.SAME_TOKEN).casefold())
    gone = rf"[\s{text_module.INVISIBLE}]"
    tokens = tokenize(text, "word")
    assert re.sub(gone, "", "".join(tokens)) == re.sub(gone, "", folded)
    assert all(tokens)


@FEW
@given(any_text, st.sampled_from(text_module.LEVELS))
def test_tokens_do_not_depend_on_the_normal_form_and_can_be_written(text, level):
    tokens = tokenize(text, level)
    "".join(tokens).encode("utf-8")
    for form in ("NFC", "NFD"):
        assert tokenize(unicodedata.normalize(form, text), level) == tokens


@FEW
@given(any_text)
def test_words_stay_words(text):
    """Cutting a token again does not cut it further."""
    for token in tokenize(text, "word"):
        assert tokenize(token, "word") == [token]


@pytest.mark.parametrize(
    "unit",
    ["a", "a'", "'", "漢", "a\u0300", "\u0300\u0316", "a\u200d", "\ud800", "ก็", " ", "👩\u200d"],
)
def test_linear_time(unit):
    tokenize("é", "word")  # the pattern is compiled once
    text = "é" + unit * 100_000
    start = time.perf_counter()
    tokenize(text, "word")
    assert time.perf_counter() - start < 1.5  # 100,000 unordered marks took 7 s before the cut


# --- Vocabulary ------------------------------------------------------------------------------

token_lists = st.lists(st.lists(st.sampled_from(["a", "b", "ab", "é", "<pad>", "<unk>", ""])))


def test_vocabulary_order_is_by_count_then_by_token():
    vocabulary = Vocabulary.build([["b", "c", "a"], ["c", "b"], ["d"]])
    assert vocabulary.tokens == ["<pad>", "<unk>", "b", "c", "a", "d"]
    assert Vocabulary.build([["b", "c", "a"], ["c", "b"]], min_count=2).tokens[2:] == ["b", "c"]
    assert Vocabulary.build([["b", "c", "a"], ["c"]], max_size=4).tokens[2:] == ["c", "a"]
    assert len(Vocabulary.build([])) == 2
    assert (Vocabulary.PAD, Vocabulary.UNKNOWN) == (0, 1)
    lists, weights = [["a", "a", "b"], ["c"], ["b", "d"]], [0.5, 1.5, 0.75]
    assert Vocabulary.build(lists, weights=weights).tokens[2:] == ["c", "b", "a", "d"]
    assert Vocabulary.build(lists, 2, weights=weights).tokens[2:] == ["b", "a"]  # rows count there
    assert Vocabulary.build(iter(lists), max_size=4, weights=weights).tokens[2:] == ["c", "b"]
    with pytest.raises(ValueError, match="shorter"):
        Vocabulary.build(lists, weights=[1.0])


def test_encode():
    vocabulary = Vocabulary(["x", "y"])
    ids = vocabulary.encode(["y", "z", "x", "y"])
    assert ids.dtype == np.int32
    assert ids.tolist() == [3, 1, 2, 3]
    assert vocabulary.encode(["y", "z", "x"], max_len=2).tolist() == [3, 1]
    empty = vocabulary.encode([])
    assert empty.dtype == np.int32
    assert empty.shape == (0,)


def test_special_names_in_a_text_are_ordinary_tokens():
    unseen = Vocabulary.build([["a"]])
    assert unseen.encode(["<pad>", "<unk>", "a"]).tolist() == [1, 1, 2]
    seen = Vocabulary.build([["<pad>", "<unk>", "<pad>"]])
    assert seen.encode(["<pad>", "<unk>"]).tolist() == [2, 3]
    again = Vocabulary.from_json(json.loads(json.dumps(seen.to_json())))
    assert again.encode(["<pad>", "<unk>"]).tolist() == [2, 3]


@FEW
@given(token_lists, st.integers(1, 3), st.none() | st.integers(2, 6))
def test_vocabulary_properties(lists, min_count, max_size):
    vocabulary = Vocabulary.build(lists, min_count, max_size)
    counts = Counter(token for tokens in lists for token in tokens)
    known = vocabulary.tokens[2:]
    assert all(counts[token] >= min_count for token in known)
    ranks = [(-counts[token], token) for token in known]
    assert ranks == sorted(ranks)
    if max_size is None:
        assert set(known) == {token for token in counts if counts[token] >= min_count}
    else:
        assert len(vocabulary) <= max_size
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    for tokens in lists:
        ids = vocabulary.encode(tokens)
        assert 0 not in ids
        assert [known[i - 2] if i > 1 else None for i in ids] == [
            token if token in known else None for token in tokens
        ]
        np.testing.assert_array_equal(again.encode(tokens), ids)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], 'no list "tokens"'),
        ({}, 'no list "tokens"'),
        ({"tokens": "abc"}, 'no list "tokens"'),
        ({"tokens": ["<pad>", "<unk>", 3]}, "token 2 is '3', not a string"),
        ({"tokens": ["a", "b"]}, "the first tokens are not <pad> and <unk>"),
        ({"tokens": ["<unk>", "<pad>", "a"]}, "the first tokens are not <pad> and <unk>"),
        ({"tokens": []}, "the first tokens are not <pad> and <unk>"),
        ({"tokens": ["<pad>", "<unk>", "a", "b", "a"]}, "the token 'a' occurs twice"),
    ],
)
def test_damaged_vocabulary(data, problem):
    with pytest.raises(InputError) as caught:
        Vocabulary.from_json(data, source="model/vocab.json")
    expected = f"model/vocab.json: {problem}; the file is damaged: train again"
    assert str(caught.value) == expected


def test_vocabulary_with_a_token_twice():
    with pytest.raises(ValueError, match="every token once"):
        Vocabulary(["a", "a"])


# --- LabelSet --------------------------------------------------------------------------------


def test_labels_are_sorted_and_numbered():
    labels = LabelSet.from_labels(["b", "a", "c", "a"])
    assert (labels.names, len(labels), labels.index("c")) == (["a", "b", "c"], 3, 2)
    data = Dataset(["x", "y"], ["c", "a"], [1, 2], "d.csv")
    assert labels.encode(data).tolist() == [2, 0]


def test_one_class_only():
    with pytest.raises(InputError) as caught:
        LabelSet.from_labels(["a", "a"], source="d.csv")
    expected = "d.csv: only the label 'a'; a classifier needs two: add texts of another class"
    assert str(caught.value) == expected
    with pytest.raises(InputError, match=r"^no label; a classifier needs two"):
        LabelSet([])


def test_unknown_label_names_file_line_and_remedy():
    labels = LabelSet(["a", "b"])
    data = Dataset(["x", "y"], ["a", "c"], [2, 7], "d.csv")
    with pytest.raises(InputError) as caught:
        labels.encode(data)
    assert str(caught.value) == (
        "d.csv, line 7: unknown label 'c', the known ones are 'a', 'b'; "
        "correct it, or train on data that has it"
    )


# --- splitting -------------------------------------------------------------------------------


def test_remove_duplicates_keeps_the_first_of_a_pair():
    data = Dataset(list("xyxxy"), list("aabab"), [1, 2, 3, 4, 5], "d", files=list("12345"))
    unique = remove_duplicates(data)
    assert unique == Dataset(list("xyxy"), list("aabb"), [1, 2, 3, 5], "d", files=list("1235"))


def check_split(texts, labels, fraction, seed):
    keep, held_out = stratified_split(texts, labels, fraction, seed)
    assert sorted([*keep, *held_out]) == list(range(len(texts)))
    assert list(keep) == sorted(keep)
    assert list(held_out) == sorted(held_out)
    assert not {texts[i] for i in keep} & {texts[i] for i in held_out}
    assert {labels[i] for i in keep} == set(labels)
    return keep, held_out


@FEW
@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abc")), max_size=80),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_split_of_texts_with_one_label(pairs, fraction, seed):
    label_of = dict(pairs)  # the last label of a text for all of its rows
    texts = [str(number) for number, _ in pairs]
    labels = [label_of[number] for number, _ in pairs]
    _, held_out = check_split(texts, labels, fraction, seed)
    members = defaultdict(set)
    for text, label in zip(texts, labels, strict=True):
        members[label].add(text)
    out = {texts[i] for i in held_out}
    for texts_of_class in members.values():
        n = len(texts_of_class)
        taken = len(texts_of_class & out)
        if n == 1:
            assert taken == 0
        else:
            assert 1 <= taken <= n - 1
            assert abs(taken - fraction * n) <= 0.5 or taken in (1, n - 1)


@FEW
@given(
    st.lists(st.tuples(st.sampled_from("tuvwxyz"), st.sampled_from("abcd")), max_size=30),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_split_of_texts_with_several_labels(pairs, fraction, seed):
    check_split([text for text, _ in pairs], [label for _, label in pairs], fraction, seed)


def test_a_text_with_several_labels_counts_for_its_first():
    texts, labels = [*"abcd", "a", "b"], [*"xxxx", "z", "z"]
    drawn = set()
    for seed in range(40):
        _, held_out = check_split(texts, labels, 0.5, seed)
        drawn.add("".join(sorted({texts[i] for i in held_out})))
    # any two of x's four texts; z has none of its own, so of a and b the first comes back
    assert drawn == {"ac", "ad", "bc", "bd", "cd", "b"}


def test_split_is_reproducible_and_depends_on_the_seed():
    texts, labels = [str(i) for i in range(200)], ["a", "b"] * 100
    first = stratified_split(texts, labels, 0.2, 0)
    np.random.seed(1)  # the global generator has no say
    np.testing.assert_array_equal(stratified_split(texts, labels, 0.2, 0)[1], first[1])
    assert first[1].tolist() != stratified_split(texts, labels, 0.2, 1)[1].tolist()
    # written down once: a change would give every user another test part
    assert first[1][:10].tolist() == [1, 9, 10, 16, 18, 20, 22, 26, 32, 40]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_split_needs_a_fraction(fraction):
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        stratified_split(["a"], ["b"], fraction, 0)


def test_split_of_a_hundred_thousand_rows_is_quick():
    texts = [str(i % 90_000) for i in range(100_000)]
    labels = [str(i % 20) for i in range(100_000)]
    start = time.perf_counter()
    stratified_split(texts, labels, 0.2, 0)
    assert time.perf_counter() - start < 1


# --- batching --------------------------------------------------------------------------------


def encoded_rows(lengths):
    """Row i holds the ids i*1000 + 1, i*1000 + 2, …: each id says where it belongs."""
    return [np.arange(1, n + 1, dtype=np.int32) + 1000 * i for i, n in enumerate(lengths)]


def test_pad_batch():
    ids, lengths = pad_batch([np.array([4, 5]), np.array([], dtype=np.int32), np.array([6, 7, 8])])
    assert ids.dtype == np.int32
    assert lengths.dtype == np.int64
    assert ids.tolist() == [[4, 5, 0], [0, 0, 0], [6, 7, 8]]
    assert lengths.tolist() == [2, 0, 3]


def test_pad_batch_has_at_least_one_column():
    ids, lengths = pad_batch([np.array([], dtype=np.int32)] * 2)
    assert ids.tolist() == [[0], [0]]
    assert lengths.tolist() == [0, 0]
    ids, lengths = pad_batch([])
    assert ids.shape == (0, 1)
    assert lengths.shape == (0,)


@FEW
@given(
    st.lists(st.integers(0, 9), max_size=60),
    st.integers(1, 7),
    st.booleans(),
    st.integers(0, 3),
    st.integers(1, 3),
)
def test_batches(lengths, batch_size, shuffle, k, chunk):
    encoded = encoded_rows(lengths)
    targets = np.arange(len(encoded)) * 7
    batches = BucketedBatches(encoded, targets, batch_size, seed=3, shuffle=shuffle)
    batches.BATCHES_PER_CHUNK = chunk
    seen = []
    epoch = list(batches.epoch(k))
    assert len(epoch) == len(batches)
    for ids, sizes, wanted, rows in epoch:
        assert 1 <= len(rows) <= batch_size
        assert ids.shape == (len(rows), max(1, sizes.max()))
        assert list(sizes) == sorted(sizes, reverse=True)
        np.testing.assert_array_equal(wanted, 7 * rows)
        for i, row, size in zip(range(len(rows)), rows, sizes, strict=True):
            np.testing.assert_array_equal(ids[i, :size], encoded[row])
            assert not ids[i, size:].any()
        seen.extend(rows)
    assert sorted(seen) == list(range(len(encoded)))
    if not shuffle:
        order = [lengths[row] for row in seen]
        assert order == sorted(order, reverse=True)


def test_epochs_are_reproducible_and_differ():
    encoded = encoded_rows([i % 11 for i in range(300)])

    def order(seed, k):
        return [batch.rows.tolist() for batch in BucketedBatches(encoded, None, 4, seed).epoch(k)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert sorted(map(tuple, order(0, 0))) != sorted(map(tuple, order(0, 1)))
    unseeded = BucketedBatches(encoded, None, 4)
    assert [b.rows.tolist() for b in unseeded.epoch(2)] == [
        b.rows.tolist() for b in unseeded.epoch(2)
    ]


def test_batches_hold_little_padding_and_come_in_any_order():
    lengths = np.random.default_rng(0).integers(1, 100, 5000)
    batches = list(BucketedBatches(encoded_rows(lengths), None, 32, seed=0).epoch(0))
    padded = sum(batch.ids.size for batch in batches)
    assert padded < 1.1 * lengths.sum()  # rows in any order: 1.9
    assert batches[0].targets is None
    one_chunk = BucketedBatches(encoded_rows(lengths[:1000]), None, 32, seed=0)
    longest = [batch.lengths[0] for batch in one_chunk.epoch(0)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_batches_check_their_arguments():
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        BucketedBatches([], None, 0)
    with pytest.raises(ValueError, match="2 rows but 1 targets"):
        BucketedBatches(encoded_rows([1, 2]), np.array([0]), 1)
