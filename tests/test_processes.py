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
    before = set(multiprocessing.active_children())  # scikit-learn's, say, of other tests
    yield
    assert set(multiprocessing.active_children()) <= before


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
            said.append(workers.gradients(loss_of, 7, ids, targets, step))
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
        parts = workers.gradients(loss_of, 6)
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


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("nothing pickles me")
        self.why = lambda: None


class Unreadable(Exception):
    """Can be pickled; but to be read again it would need two arguments, and has kept one."""

    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


def fail(part, at, kind):
    if part.start == at:
        odd = {"value": ValueError("row 3 is odd"), "odd": Unpicklable(), "two": Unreadable(1, 2)}
        raise odd[kind]
    return part.start


@pytest.mark.parametrize("at", [0, 2, 4])
def test_an_error_in_a_shard_is_raised_here(at, forks):
    errors = {
        "value": (ValueError, "row 3 is odd"),
        "odd": ((Unpicklable, RuntimeError), "nothing pickles me"),
        "two": ((Unreadable, RuntimeError), "1 2"),
    }
    with Workers(3, (fail,)) as workers:
        for kind, (error, said) in errors.items():
            with pytest.raises(error, match=said):
                workers.run(fail, 6, at, kind)
            assert workers.run(fail, 6, -1, kind) == [0, 2, 4]  # no answer is a question late


def returns_unreadable(part, again):
    return part.start if again else Unreadable(1, 2)


def test_an_answer_that_cannot_be_read_is_an_error(forks):
    with Workers(2, (returns_unreadable,)) as workers:
        with pytest.raises(RuntimeError, match="cannot be read"):
            workers.run(returns_unreadable, 2, False)
        assert workers.run(returns_unreadable, 2, True) == [0, 1]


def test_an_interrupt_leaves_no_answer_for_the_next_question(forks, monkeypatch):
    with Workers(3, (which,)) as workers:
        answer = processes.Child.answer

        def interrupted(self):
            raise KeyboardInterrupt

        monkeypatch.setattr(processes.Child, "answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            workers.run(which, 3, "first")
        monkeypatch.setattr(processes.Child, "answer", answer)
        assert workers.run(which, 3, "second") == [(k, k + 1, "second") for k in range(3)]


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


def test_a_process_started_meanwhile_keeps_nobody_waiting(forks):
    """It inherits our end of the pipe, which therefore does not look closed."""
    with Workers(2, (which,)) as workers:
        other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        other.start()
        workers.run(which, 2, 0)
        began = time.monotonic()
    try:
        assert time.monotonic() - began < processes.PATIENCE
    finally:
        other.kill()
        other.join()


def test_where_no_process_can_be_started_threads_do_it(forks, monkeypatch):
    fork, forked = os.fork, []

    def one_only():
        if forked:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        pid = fork()
        forked.append(pid)
        return pid

    w = tg.nn.Parameter([1.0, 2.0, 3.0])

    def loss_of(part):
        return (w[part] * w[part]).sum(), part.start

    monkeypatch.setattr(os, "fork", one_only)
    with Workers(3, (loss_of,), (w,)) as workers:
        assert workers.processes is None
        assert w.data.flags.owndata
        assert workers.gradients(loss_of, 3) == [0, 1, 2]
    assert w.grad.numpy().tolist() == [2, 4, 6]


def test_a_job_that_was_not_announced_is_done_by_threads(forks):
    with Workers(2, (which,)) as workers:
        assert workers.run(lambda part: os.getpid(), 2) == [os.getpid()] * 2


def test_children_record_what_the_caller_records(forks):
    w = tg.nn.Parameter([1.0, 2.0])

    def records(part):
        return (w * w).requires_grad

    with Workers(2, (records,), (w,)) as workers:
        assert workers.run(records, 2) == [True, True]
        with tg.no_grad():
            assert workers.run(records, 2) == [False, False]


def test_detect_anomaly_sees_every_shard(forks):
    w = tg.nn.Parameter([1.0, -2.0])

    def loss_of(part):
        return tg.log(w[part]).sum(), None

    workers = Workers(2, (loss_of,), (w,))
    with workers, tg.detect_anomaly(), pytest.raises(tg.AnomalyError):
        workers.gradients(loss_of, 2)


def test_weights_that_are_one_stay_one(forks):
    a, b = tg.nn.Parameter([1.0, 2.0]), tg.nn.Parameter([1.0, 2.0])
    b.data = a.data

    def loss_of(part):
        return (a[part] * 3.0).sum() + (b[part] * b[part]).sum(), None

    with Workers(2, (loss_of,), (a, b)) as workers:
        workers.gradients(loss_of, 2)
        assert (a.grad.numpy().tolist(), b.grad.numpy().tolist()) == ([3, 3], [2, 4])
        b.data += 1.0
        assert a.data.tolist() == [2, 3]
        workers.gradients(loss_of, 2)
        assert b.grad.numpy().tolist() == [4, 6]
    assert a.data is b.data


def test_other_shapes_and_dtypes_are_refused_while_workers_share(forks):
    for other in (np.ones(3, np.float32), np.ones(2)):
        w = tg.nn.Parameter([1.0, 2.0])
        with Workers(2, (which,), (w,)) as workers:
            w.data = other
            with pytest.raises(ValueError, match="was replaced by one of"):
                workers.run(which, 2, 0)
        assert w.data is other


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


POSSIBLE = processes.possible  # the fixture replaces it


def asks(part):
    return POSSIBLE()


def test_a_child_has_no_children_of_its_own(forks):
    """A worker that trains in somebody's pool does it with threads: daemons may not fork."""
    with Workers(2, (asks,)) as workers:
        assert workers.run(asks, 2)[1] is False


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


ORPHAN = """
import multiprocessing, os, signal, time
from tinygrad_mha.models.parallel import Workers

def which(part):
    return part.start

with Workers(2, (which,)) as workers:
    other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    other.start()  # it inherits our end of the pipe, which therefore outlives us
    print(workers.processes.children[0].process.pid, other.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are for Linux")
def test_a_child_ends_with_its_parent_though_the_pipe_stays_open():
    run = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
    child, other = map(int, run.stdout.readline().split())
    try:
        assert run.wait(30) == -signal.SIGKILL
        give_up = time.monotonic() + 10
        while is_running(child):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        assert is_running(other)
    finally:
        os.kill(other, signal.SIGKILL)
        run.stdout.close()


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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
