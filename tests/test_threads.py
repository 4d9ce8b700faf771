"""Several threads of one process at once: none changes what another one computes.

Each test brings the threads together at a barrier where a race would happen, so that it happens.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from words import leaf

import tinygrad_mha as tg
from tinygrad_mha import random, tensor, threads
from tinygrad_mha.models import text
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.estimator import TextClassifierEstimator
from tinygrad_mha.models.train import Settings, split, train
from tinygrad_mha.models.trained import TrainedClassifier, build_model
from tinygrad_mha.models.wordpiece import WordPiece


def together(*jobs):
    """What the jobs return, each called in a thread of its own with one barrier for all."""
    barrier = threading.Barrier(len(jobs), timeout=60)

    def run(job):
        try:
            return job(barrier)
        except BaseException:
            barrier.abort()  # nobody waits for one that is gone
            raise

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(run, job) for job in jobs]]


@pytest.fixture(autouse=True)
def often():
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


# ------------------------------------------------------------------------------------- modes


def test_modes_belong_to_their_thread():
    """One thread is in every mode there is; the other, meanwhile, in none."""
    x = leaf([1.0, 2.0])

    def inside(barrier):
        with tg.no_grad(), tensor.evaluating():
            tg.set_default_dtype(np.float64)
            tg.manual_seed(7)
            barrier.wait()
            barrier.wait()
            return (x * x).requires_grad, tg.Tensor([1.0]).dtype, tg.nn.Dropout(0.5).training

    def outside(barrier):
        barrier.wait()
        seen = (x * x).requires_grad, tg.Tensor([1.0]).dtype, tg.nn.Dropout(0.5).training
        barrier.wait()
        return seen

    before = random.masks()
    assert together(inside, outside) == [
        (False, np.float64, False),
        (True, np.float32, True),
    ]
    assert tensor.default_dtype() == np.float32
    assert random.masks() == before


def test_the_main_threads_dtype_is_everybodys_and_workers_have_their_callers(float64):
    assert together(lambda barrier: tg.Tensor(1.0).dtype) == [np.float64]

    def half(barrier):
        tg.set_default_dtype(np.float16)
        job = tensor.inherit(lambda: tg.Tensor(1.0).dtype)
        return together(lambda barrier: job())

    assert together(half) == [[np.float16]]
    assert tg.Tensor(1.0).dtype == np.float64


def test_an_exception_in_one_thread_leaves_all_modes_as_they_were():
    def fails(barrier):
        before = {name: getattr(tensor.modes, name) for name in ("recording", "watcher", "dtype")}

        @tg.no_grad()
        @tg.detect_anomaly()
        def fail():
            with np.errstate(all="raise"), threads.one_blas_thread():
                barrier.wait()
                return 1 / 0

        with pytest.raises(ZeroDivisionError):
            fail()
        return before == {name: getattr(tensor.modes, name) for name in before}

    def works(barrier):
        barrier.wait()
        with np.errstate(all="ignore"):
            tg.log(tg.Tensor([-1.0]))  # NaN: neither raised by NumPy nor seen by a watcher
        return tensor.modes.recording and tensor.modes.watcher is None

    free, errors = threads.free_threads(), np.geterr()
    assert together(fails, works, fails, works) == [True] * 4
    assert (threads.free_threads(), np.geterr()) == (free, errors)


def test_an_anomaly_is_looked_for_in_its_own_thread():
    def watched(barrier):
        with tg.detect_anomaly(), np.errstate(invalid="ignore"):
            barrier.wait()
            with pytest.raises(tg.AnomalyError, match="log gave NaN"):
                leaf([-1.0]).log().sum().backward()
            barrier.wait()

    def other(barrier):
        barrier.wait()
        with np.errstate(invalid="ignore"):
            x = leaf([-1.0])
            x.log().sum().backward()
        barrier.wait()
        return x.grad.numpy().tolist()

    assert together(watched, other) == [None, [-1.0]]


def test_a_trace_is_of_its_own_thread():
    """Each shows the ops of the thread that asked for it."""

    def traced(name):
        def job(barrier):
            x = leaf([0.5])
            with tg.trace() as seen:
                barrier.wait()
                y = getattr(tg, name)(x)
                barrier.wait()
                y.sum().backward()
                barrier.wait()
            return repr(seen)

        return job

    exp, tanh = together(traced("exp"), traced("tanh"))
    assert exp.startswith("<trace of 2 calls: exp, sum;")
    assert tanh.startswith("<trace of 2 calls: tanh, sum;")


def test_a_limit_holds_whichever_thread_sets_it():
    """The main thread has set one before: threadpoolctl would let no other thread set any."""
    with threads.blas_threads(2):
        pass

    def limited(barrier):
        with threads.one_blas_thread():
            return threads.free_threads()

    assert together(limited) == [1]


def test_blas_has_one_thread_until_the_last_one_is_out():
    outside = threads.free_threads()

    def first(barrier):
        with threads.one_blas_thread():
            barrier.wait()  # both are in
        barrier.wait()  # one is out
        barrier.wait()

    def last(barrier):
        with threads.one_blas_thread():
            barrier.wait()
            barrier.wait()
            seen = threads.free_threads()
        barrier.wait()
        return seen

    assert together(first, last) == [None, 1]
    assert threads.free_threads() == outside


# ---------------------------------------------------------------------------------- gradients


def test_no_gradient_is_lost_on_a_leaf_of_several_threads():
    """Each adds ones, whose sum is exact in any order; of other numbers the last bits may differ.

    (The order of the sum is that in which the threads come.)
    """
    x = leaf(np.zeros(3))

    def add(barrier):
        barrier.wait()
        for _ in range(200):
            x.sum().backward()

    together(*[add] * 4)
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 800.0))


# ----------------------------------------------------------------------------------- training

TEXTS = [f"{a} {b} {c}" for a in ("red", "blue") for b in "abcdefgh" for c in "uvwxyz"]
DATA = Dataset(TEXTS, [t.split()[0] for t in TEXTS], list(range(len(TEXTS))), "colours")
TINY = {"d_model": 16, "h": 2, "epochs": 2, "batch_size": 16, "workers": 2}


def trained(seed, **given):
    return train(split(DATA), Settings(**{**TINY, "seed": seed, **given}))


def bits(model):
    return {name: a.tobytes() for name, a in model.state_dict().items()}


def test_two_trainings_at_once_give_what_each_gives_alone(monkeypatch):
    """They draw their initial weights, and then their masks, at the same time."""
    seeds = [1, 2]
    alone = [bits(trained(seed).model) for seed in seeds]
    build = build_model
    made = {}

    def build_model_together(*given):
        if barrier := made.get("barrier"):
            barrier.wait()
        return build(*given)

    monkeypatch.setattr("tinygrad_mha.models.train.build_model", build_model_together)

    def job(seed):
        def run(barrier):
            made["barrier"] = barrier
            return bits(trained(seed).model)

        return run

    assert together(*map(job, seeds)) == alone
    made.clear()
    assert bits(trained(seeds[0]).model) == alone[0]  # and in the main thread afterwards


def test_a_seed_in_another_thread_takes_nothing_from_the_main_thread():
    tg.manual_seed(3)
    want = random.uniform((4,), 0, 1).tolist()
    tg.manual_seed(3)
    first = random.uniform((2,), 0, 1).tolist()

    def other(barrier):
        tg.manual_seed(3)
        return random.uniform((4,), 0, 1).tolist()

    assert together(other, other) == [want, want]
    assert first + random.uniform((2,), 0, 1).tolist() == want


# --------------------------------------------------------------------------------- prediction


def test_a_shared_model_answers_the_same_whatever_mode_others_switch_it_to():
    """Eight threads predict; one switches train() and eval(), which predictions do not touch."""
    answering = trained(0, dropout=0.5)
    answering.model.train()
    ids = answering.encode(TEXTS[::6])
    want, stop = answering.logits(ids), threading.Event()
    assert answering.model.training  # it was asked, not changed

    def predict(barrier):
        barrier.wait()
        return all((answering.logits(ids) == want).all() for _ in range(8))

    def switch():
        while not stop.is_set():
            answering.model.train()
            answering.model.eval()

    switching = threading.Thread(target=switch)
    switching.start()
    try:
        assert together(*[predict] * 8) == [True] * 8
    finally:
        stop.set()
        switching.join()


def test_an_answer_does_not_depend_on_who_trains_meanwhile():
    """A training leaves BLAS one thread, and that changes the last bits of a large product."""
    config = {"d_model": 128, "h": 8, "num_layers": 1, "bidirectional": True}
    tg.manual_seed(0)
    model = build_model({**config, "dropout": 0.0, "pooling": "mean"}, 60, 3)
    answering = TrainedClassifier(model, text.Vocabulary([]), list("abc"), {})
    ids = list(np.random.default_rng(0).integers(2, 60, (96, 40)).astype(np.int32))
    alone = answering.logits(ids, batch_size=32)
    with threads.one_blas_thread():
        np.testing.assert_array_equal(answering.logits(ids, batch_size=32), alone)


def test_prediction_beside_a_training():
    answering, alone = trained(0), bits(trained(1).model)
    want = answering.predict_proba(TEXTS)
    done = threading.Event()

    def predict(barrier):
        barrier.wait()
        count = 0
        while not done.is_set() or not count:
            np.testing.assert_array_equal(answering.predict_proba(TEXTS), want)
            count += 1

    def other(barrier):
        barrier.wait()
        try:
            return bits(trained(1).model)
        finally:
            done.set()

    assert together(predict, other) == [None, alone]


def test_an_estimator_that_is_fitted_anew_answers_with_the_old_model_or_the_new():
    """Never with the columns of one and the labels of the other."""
    pytest.importorskip("sklearn")
    small = {"d_model": 8, "h": 2, "epochs": 6, "lr": 0.05, "workers": 1, "random_state": 0}
    served = TextClassifierEstimator(**small).fit(TEXTS, DATA.labels)
    other = {"red": "a warm one", "blue": "no warm one"}  # in the other order than red and blue
    new = TextClassifierEstimator(**small).fit(TEXTS, [other[label] for label in DATA.labels])
    want = [e.predict(TEXTS[:9]).tolist() for e in (served, new)]
    assert want == [["red"] * 9, [other["red"]] * 9]
    old, done = (served.trained_, served.classes_), threading.Event()

    def predict(barrier):
        barrier.wait()
        seen = []
        while not done.is_set():
            seen.append(served.predict(TEXTS[:9]).tolist())
        return all(answer in want for answer in seen)

    def fit(barrier):
        barrier.wait()
        for _ in range(10):
            served._take(new.trained_, new.classes_)
            served._take(*old)
        done.set()
        return True

    assert together(predict, fit, predict) == [True] * 3


# ------------------------------------------------------------------------- what is made once


def test_what_is_made_when_first_used_is_made_whole():
    """Patterns, the handle on BLAS, plans of einsum: eight threads find none there, and all go."""
    for cached in (text.token_pattern, text.long_run_pattern, text.combining_marks, threads._blas):
        cached.cache_clear()
    x = np.arange(12.0).reshape(3, 4)

    def job(barrier):
        barrier.wait()
        y = tg.einsum("ij,kj,kl->il", x, x, x)
        with threads.one_blas_thread():
            return text.tokenize("Don't e\u0301", "word"), y.tolist()

    want = ["don't", "\u00e9"], (x @ x.T @ x).tolist()
    assert together(*[job] * 8) == [want] * 8


def test_masks_of_threads_do_not_depend_on_each_other():
    def masks(barrier):
        tg.manual_seed(5)
        barrier.wait()
        return [tg.dropout(tg.Tensor(np.ones(40)), p=0.5).numpy().tobytes() for _ in range(20)]

    [alone] = together(masks)
    assert together(masks, masks, masks) == [alone] * 3


def test_a_tokenizer_cuts_texts_as_each_thread_asks():
    tokenizers = pytest.importorskip("tokenizers")
    pieces = {"[UNK]": 0, "a": 1}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    shared = WordPiece(tokenizer.to_str())

    def encode(length):
        def job(barrier):
            barrier.wait()
            found = [shared.encode(["a " * 99] * 5, length) for _ in range(100)]
            return {len(ids) for some in found for ids in some}

        return job

    assert together(*map(encode, (5, 6, 7, 8))) == [{5}, {6}, {7}, {8}]
    assert shared.cut == 4 * 500
