"""Workers that are processes: the same numbers, and nothing left behind whatever happens."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha import optim
from tinygrad_mha.models import TextClassifier, processes
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.random import mask_stream

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    # Python 3.12 warns of a fork beside other threads; the runner of the tests may have some.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


@pytest.fixture
def forks(monkeypatch):
    monkeypatch.setattr(processes, "possible", lambda: True)
    yield
    assert multiprocessing.active_children() == []


def training(count, steps=3, change=lambda model: None):
    """The weights after some steps of a small classifier with dropout, and what was said."""
    tg.manual_seed(0)
    model = TextClassifier(30, 16, 3, h=2, dropout=0.3, num_layers=2)
    parameters = model.parameters()
    adam = optim.Adam(parameters, lr=0.01)
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 30, (7, 5)), rng.integers(0, 3, 7)

    def loss_of(part, ids, targets, step):
        model.train()
        with mask_stream(0, step, part.start):
            loss = tg.cross_entropy(model(ids[part]), targets[part], reduction="sum")
        return loss, (os.getpid(), loss.item())

    def scores(part, ids):
        model.eval()
        with tg.no_grad():
            return os.getpid(), model(ids[part]).numpy()

    with Workers(count, (loss_of, scores), parameters) as workers:
        said = []
        for step in range(steps):
            said.append(workers.gradients(loss_of, parameters, 7, ids, targets, step))
            adam.step(workers)
            change(model)
        scored = workers.run(scores, 7, ids)
    pids = {pid for answers in [*said, scored] for pid, _ in answers}
    losses = [[loss for _, loss in shards] for shards in said]
    return model.state_dict(), losses, np.concatenate([x for _, x in scored]), pids


def same(a, b):
    assert a[0].keys() == b[0].keys()
    for name, x in a[0].items():
        assert x.tobytes() == b[0][name].tobytes(), name
    assert a[1] == b[1]
    assert a[2].tobytes() == b[2].tobytes()


@pytest.mark.parametrize("count", [2, 3])
def test_processes_and_threads_give_the_same_bits(count, monkeypatch, forks):
    by_processes = training(count)
    monkeypatch.setattr(processes, "possible", lambda: False)
    by_threads = training(count)
    same(by_processes, by_threads)
    assert len(by_processes[3]) == count
    assert by_threads[3] == {os.getpid()}
    alone = training(1)
    np.testing.assert_allclose(by_processes[2], alone[2], rtol=0, atol=1e-3)
    np.testing.assert_allclose(
        *([sum(x) for x in said] for _, said, *_ in (alone, by_threads)), rtol=1e-4
    )


def test_weights_that_are_loaded_or_set_on_the_way_reach_the_children(monkeypatch, forks):
    def load(model):
        model.load_state_dict({k: x * 0.9 for k, x in model.state_dict().items()})

    def bind(model):
        for p in model.parameters():
            p.data = p.data * np.float32(0.9)

    loaded, bound = training(2, change=load), training(2, change=bind)
    monkeypatch.setattr(processes, "possible", lambda: False)
    same(loaded, training(2, change=load))
    same(bound, training(2, change=bind))


def test_afterwards_the_weights_are_ordinary_arrays(forks):
    model = TextClassifier(9, 4, 2, h=2)
    before = model.state_dict()
    with Workers(2, (lambda part: None,), model.parameters()):
        assert all(p.data.base is not None for p in model.parameters())
    for p in model.parameters():
        assert p.data.flags.owndata
        assert p.data.flags.writeable
        assert p.data.flags.c_contiguous
    for name, x in model.state_dict().items():
        np.testing.assert_array_equal(x, before[name])


def test_numbers_rows_and_nothing(forks):
    rng = np.random.default_rng(0)
    w, v, s, o = (tg.nn.Parameter(rng.standard_normal(n)) for n in ((5, 3), (3,), (), (0, 2)))
    x = rng.standard_normal((6, 5))

    def loss_of(part):
        y = tg.tanh(tg.transpose(tg.transpose(w) @ x[part].T)) * v * s
        return y.sum() + o.sum(), part

    want = tg.grad(loss_of(slice(None))[0], [w, v, s, o])
    with Workers(3, (loss_of,), (w, v, s, o)) as workers:
        parts = workers.gradients(loss_of, [w, v, s, o], 6)
    assert parts == [slice(0, 2), slice(2, 4), slice(4, 6)]
    for p, d in zip((w, v, s, o), want, strict=True):
        np.testing.assert_allclose(p.grad.data, d.data, rtol=1e-12)


def test_fewer_rows_than_workers(forks):
    with Workers(3, (which,)) as workers:
        assert workers.run(which, 2, 5) == [(0, 1, 5), (1, 2, 5)]
        assert workers.run(which, 1, 5) == [(0, 1, 5)]
        assert workers.run(which, 4, 6) == [(0, 2, 6), (2, 3, 6), (3, 4, 6)]


def which(part, more):
    return part.start, part.stop, more


class Odd(Exception):
    def __init__(self):
        super().__init__("nothing pickles me")
        self.why = lambda: None


def fail(part, at, kind):
    if part.start == at:
        raise {"value": ValueError("row 3 is odd"), "odd": Odd()}[kind]
    return part.start


@pytest.mark.parametrize("at", [0, 2, 4])
def test_an_error_in_a_shard_is_raised_here(at, forks):
    with Workers(3, (fail,)) as workers:
        with pytest.raises(ValueError, match="row 3 is odd"):
            workers.run(fail, 6, at, "value")
        assert workers.run(fail, 6, -1, "value") == [0, 2, 4]  # no answer is a question late
        with pytest.raises((Odd, RuntimeError), match="nothing pickles me"):
            workers.run(fail, 6, at, "odd")
        assert workers.run(fail, 6, -1, "odd") == [0, 2, 4]


def test_a_child_that_was_killed_is_named(forks):
    with Workers(3, (which,)) as workers:
        workers.run(which, 3, 0)
        os.kill(workers.processes.children[1].process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"killed by signal 9.*fewer workers"):
            workers.run(which, 3, 1)
        with pytest.raises(RuntimeError, match="killed by signal 9"):
            workers.run(which, 3, 2)


def test_an_exception_outside_ends_the_children(forks):
    children = []

    def leave():
        with Workers(3, (which,)) as workers:
            children.extend(child.process for child in workers.processes.children)
            raise KeyError("outside")

    with pytest.raises(KeyError):
        leave()
    assert len(children) == 2
    assert not any(child.is_alive() for child in children)


def test_beside_another_thread_nothing_is_forked():
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert not processes.possible()
        with Workers(2, (which,)) as workers:
            assert workers.processes is None
            assert workers.run(which, 2, 0) == [(0, 1, 0), (1, 2, 0)]
    finally:
        done.set()
        other.join()


def test_no_memory_and_no_pipe_is_left(forks):
    def mapped():
        gc.collect()
        with open("/proc/self/maps") as maps:
            return sum("/dev/zero" in line for line in maps), len(os.listdir("/proc/self/fd"))

    if not os.path.exists("/proc/self/maps"):
        pytest.skip("this system does not list what is mapped")
    training(2)
    before = mapped()
    for _ in range(3):
        training(2)
    assert mapped() == before


TRAIN = [sys.executable, "-m", "tinygrad_mha", "train", "--workers", "2",
         "--epochs", "500", "--batch-size", "32", "--early-stopping", "0"]  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are for Linux")
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_training_that_is_stopped_leaves_no_process(stop, code, tmp_path):
    """Ctrl-C reaches the whole group; a kill only the parent."""
    rows = "".join(
        f"{a} {b},{ord(a) * ord(b) % 3}\n" for a in "abcdefghijuvwxyz" for b in "klmnopqrst"
    )
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    run = subprocess.Popen(
        [*TRAIN, "rows.csv", "--out", "model", "--level", "char"],
        cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        give_up = time.monotonic() + 60
        while len(members(run.pid)) < 2:
            assert run.poll() is None, run.stderr.read().decode()
            assert time.monotonic() < give_up
            time.sleep(0.05)
        time.sleep(0.3)
        if stop == signal.SIGINT:
            os.killpg(run.pid, stop)
        else:
            run.kill()
        said = run.stderr.read().decode()  # until the last process has closed it
        assert run.wait(30) == code
        assert "Traceback" not in said
    finally:
        run.stderr.close()
        if run.poll() is None:
            run.kill()
            run.wait()
    while members(run.pid):
        assert time.monotonic() < give_up
        time.sleep(0.05)


def members(group):
    """The processes of a group that still run."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(pid))
    return found
