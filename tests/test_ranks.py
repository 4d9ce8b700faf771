"""Training by several processes: the numbers of one, and an end for all when one comes to its end.

The processes are started with ``mpiexec``; two cores are enough, for nobody looks at the time.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rank_work
import test_finetune

import tinygrad_mha as tg
from tinygrad_mha import backend
from tinygrad_mha.models import InputError, ranks, wires
from tinygrad_mha.models.buckets import LINE, Buckets
from tinygrad_mha.models.data_parallel import RankWorkers, workers_for
from tinygrad_mha.models.parallel import Workers, shards
from tinygrad_mha.models.ranks import Ranks

HERE = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
together = [
    pytest.mark.mpi,
    pytest.mark.skipif(find_spec("mpi4py") is None, reason="no mpi4py: pip install mpi4py"),
    pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: pip install mpich"),
]


def with_mpi(test):
    for mark in together:
        test = mark(test)
    return test


# Open MPI refuses the superuser and more ranks than cores unless told
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@contextmanager
def started(count, *command, cwd=None):
    """A job of so many ranks; gone in the end."""
    with subprocess.Popen(
        [MPIEXEC, "-n", str(count), sys.executable, *map(str, command)],
        cwd=cwd, env={**os.environ, **OPEN_MPI}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as job:  # fmt: skip
        try:
            yield job
        finally:
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)


def ended(count, *command, cwd=None, seconds=60):
    """Status, output and errors of a job that ends by itself."""
    with started(count, *command, cwd=cwd) as job:
        out, err = job.communicate(timeout=seconds)
    return job.returncode, out, err


def rank_files(folder, count):
    found = []
    for k in range(count):
        with np.load(folder / f"{k}.npz") as arrays:
            weights = [arrays[str(i)] for i in range(len(arrays.files))]
        found.append((weights, json.loads((folder / f"{k}.json").read_text())))
    return found


# ------------------------------------------------------------------------------- the numbers


@with_mpi
@pytest.mark.parametrize(
    ("count", "how"), [(2, "plain"), (4, "plain"), (3, "weighted"), (2, "gpu")]
)
def test_ranks_compute_what_one_process_computes(tmp_path, count, how):
    """With dropout, uneven shares, and of four ranks one without a row of some batch.

    On a double of a GPU the sums go by way of the host.
    """
    status, _, err = ended(count, HERE / "rank_work.py", how, tmp_path)
    assert status == 0, err
    run, told = rank_work.trained(Ranks(), weighted=how == "weighted")
    alone = [p.data for p in run.parameters]
    found = rank_files(tmp_path, count)
    for k, (weights, said) in enumerate(found):
        for a, b, first in zip(weights, alone, found[0][0], strict=True):
            assert a.dtype == np.float64
            np.testing.assert_array_equal(a, first)  # every rank has the same, bit by bit
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
        for mine, one in zip(said["history"], told["history"], strict=True):
            for name in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy"):
                assert mine[name] == pytest.approx(one[name], abs=1e-6), (k, name)
        assert said["gathered"] == [{"rank": r, "word": "é" * r} for r in range(count)]
        assert said["buckets"] > 5
        assert said["early"] > 1  # sums were begun before the backward pass was over
        row = sum(-(-a.size // LINE) * LINE for a in alone) * 8
        assert 6 * row < said["exchanged"] < 6 * (row + 10_000)


@with_mpi
@pytest.mark.parametrize(
    ("count", "mode"), [(2, "attention"), (3, "all"), (2, "lora"), (2, "head")]
)
def test_ranks_fine_tune_as_one_process_does(tmp_path, monkeypatch, count, mode):
    """A step of two batches, with dropout, and of three ranks one without a row of some batch."""
    base = test_finetune.pretrained_folder(tmp_path / "base")
    status, _, err = ended(count, HERE / "rank_work.py", f"finetune-{mode}", tmp_path)
    assert status == 0, err
    monkeypatch.setattr(test_finetune.finetune, "WordPiece", test_finetune.Letters)
    one = rank_work.fine_tuned(Ranks(), mode, base)
    alone = [p.numpy() for p in one.model.parameters()]
    found = rank_files(tmp_path, count)
    for weights, said in found:
        for a, b, first in zip(weights, alone, found[0][0], strict=True):
            assert a.dtype == np.float64
            np.testing.assert_array_equal(a, first)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
        for mine, ours in zip(said["history"], one.metrics["history"], strict=True):
            for name in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy"):
                assert mine[name] == pytest.approx(ours[name], abs=1e-6), name
        row = one.metrics["trained_parameters"] * 8
        assert said["exchanged"] > len(said["history"]) * row


def one_of(size, rank):
    """A rank without the others."""
    r = Ranks()
    r.size, r.rank = size, rank
    return r


@pytest.mark.parametrize(("rows", "size"), [(12, 4), (13, 4), (3, 4), (0, 2), (1, 1)])
def test_shares_are_those_of_shards(rows, size):
    shares = [one_of(size, k).share(rows) for k in range(size)]
    assert [s.start for s in shares] + [rows] == [0] + [s.stop for s in shares]
    sizes = [s.stop - s.start for s in shares]
    assert max(sizes) - min(sizes) <= 1
    if rows >= size:
        assert shares == shards(rows, size)


def test_a_rank_without_rows_has_nothing_to_do():
    few = RankWorkers(one_of(4, 0), 1)
    assert few.cut(2) == [slice(0, 1)]
    assert RankWorkers(one_of(4, 1), 1).cut(2) == []
    assert RankWorkers(one_of(2, 1), 2).cut(9) == [slice(5, 7), slice(7, 9)]


# ------------------------------------------------------------------------------- the buckets


class Wire:
    """Of one rank among three with the same gradients."""

    def __init__(self):
        self.log, self.nudges = [], 0

    def start(self, a):
        self.log.append(a.copy())
        a *= 3
        return len(self.log)

    def nudge(self, started):
        self.nudges += 1

    def finish(self, started):
        assert started == list(range(1, len(self.log) + 1))


@pytest.mark.parametrize("size", [1, 100, 256, 10**6])
@pytest.mark.parametrize("backwards", [True, False])
def test_every_gradient_is_in_the_buckets_once(size, backwards):
    rng = np.random.default_rng(0)
    shapes = [(5, 7), (), (33,), (0, 3), (2, 3, 4)]
    parameters = [tg.Tensor(rng.normal(size=s), requires_grad=True) for s in shapes]
    gradients = [rng.normal(size=s) for s in shapes]
    buckets = Buckets(parameters, wire := Wire(), size)
    for step in range(2):
        wire.log.clear()
        buckets.begin()
        order = reversed(range(5)) if backwards else range(5)
        for count, k in enumerate(order):
            buckets.ready(k, gradients[k] * (step + 1) if k != 2 else None)
            if not backwards and count < 4:  # the last parameter fills the first bucket
                assert wire.log == []
        buckets.finish()
        sent = np.concatenate(wire.log)
        assert len(sent) == len(buckets.row) == sum(-(-p.size // LINE) * LINE for p in parameters)
        for k, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            expected = g * 0 if k == 2 else g * 3 * (step + 1)
            np.testing.assert_array_equal(p.grad.numpy(), expected)
        assert np.isclose(
            sent.sum(), sum(g.sum() for k, g in enumerate(gradients) if k != 2) * (step + 1)
        )
    if backwards:
        assert bool(buckets.early) == (size < 10**6)


def test_sums_begin_during_the_backward_pass():
    """And the first bucket of all ranks is the first that each begins."""
    rng = np.random.default_rng(0)
    layers = [tg.Tensor(rng.normal(size=(8, 8)), requires_grad=True) for _ in range(6)]
    buckets = Buckets(layers, wire := Wire(), 8 * 8 * 8)
    begun = []
    x = tg.Tensor(rng.normal(size=(4, 8)))
    for w in layers:
        x = tg.tanh(x @ w)

    def ready(k, g):
        buckets.ready(k, g)
        begun.append((k, len(wire.log)))

    found = tg.grad(x.sum(), layers, ready=ready)
    assert [c.stop - c.start for c in buckets.cuts] == [16, 32, *[64] * 5, 16]
    assert begun == [(5, 2), (4, 3), (3, 4), (2, 5), (1, 6), (0, 8)]
    assert (buckets.early, wire.nudges) == (6, 5)
    buckets.finish()
    for w, g in zip(layers, found, strict=True):
        np.testing.assert_allclose(w.grad.numpy(), 3 * g.numpy())


# ------------------------------------------------------------------------ alone, and starting


def test_alone_there_is_no_mpi():
    code = (
        "import sys; from tinygrad_mha.models import ranks, train\n"
        "r = ranks.group()\n"
        "assert (r.rank, r.size, r.first, r.gathered({'a': 1})) == (0, 1, True, [{'a': 1}])\n"
        "assert r.wait() and r.share(3) == slice(0, 3) and r.device('cuda:1') == 'cuda:1'\n"
        "assert 'mpi4py' not in sys.modules"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI"))}
    subprocess.run([sys.executable, "-c", code], check=True, env=clean)


def test_alone_the_workers_are_the_usual_ones():
    assert type(workers_for(Ranks(), 1)) is Workers
    assert type(workers_for(one_of(2, 0), 1)) is RankWorkers


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 2),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}, 3),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "8"}, 8),
        ({"SLURM_STEP_NUM_TASKS": "8"}, 1),  # sbatch, without srun
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, 1),
    ],
)
def test_who_has_started_us(environment, count, monkeypatch):
    for name in (*ranks.SIZES, *ranks.NUMBERS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks.launched() == count


def test_without_mpi4py_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr(ranks, "_group", None)
    from tinygrad_mha.models.cli import main

    assert main(["train"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "pip install 'tinygrad_mha[mpi]'" in line


def test_mpiexec_of_another_library(monkeypatch):
    class Alone:
        class COMM_WORLD:
            Get_size = staticmethod(lambda: 1)

    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setattr(ranks, "_mpi", lambda: Alone)
    monkeypatch.setattr(ranks, "_group", None)
    with pytest.raises(InputError, match="started 2 processes, but mpi4py sees 1"):
        ranks.group()


# ---------------------------------------------------------------------------------- on GPUs


class OnGpu:
    """What stands for an array there."""


@pytest.mark.parametrize(
    ("gpus", "nccl", "kind"),
    [([2, 2], True, "ByNccl"), ([2, 2], False, "Staged"), ([1, 1], True, "Staged")],
)
def test_how_sums_travel_between_gpus(monkeypatch, gpus, nccl, kind):
    """NCCL where it is and each rank has a GPU of its own; else by way of the host."""
    r = one_of(2, 1)
    r.gathered = lambda words: [[n, 2] for n in gpus]
    asked = []
    monkeypatch.setattr(wires, "xp", lambda a: type("cupy", (), {"cuda": OnGpu}))
    monkeypatch.setattr(backend, "gpus", lambda: gpus[1])
    monkeypatch.setattr(
        backend, "nccl", lambda *who: asked.append(who) or ("nccl" if nccl else None)
    )
    for name in ("ByNccl", "Staged"):
        monkeypatch.setattr(wires, name, lambda *_, name=name: name)
    assert wires.wire_for(OnGpu(), r) == kind
    assert asked == ([(2, 1)] if gpus == [2, 2] else [])


def test_nccl_runs_beside_the_backward_pass():
    """Its stream waits for what fills the bucket, and what comes later waits for its stream."""
    log = []

    class Stream:
        def __init__(self, name="side", non_blocking=False):
            self.name = name

        def record(self):
            return f"what {self.name} has done"

        def wait_event(self, event):
            log.append(f"{self.name} waits for {event}")

    class Cuda:
        get_current_stream = staticmethod(lambda: Stream("main"))

    Cuda.Stream = Stream

    class Nccl:
        def all_reduce(self, a, b, op, stream):
            assert a is b
            log.append(f"{op} on {stream.name}")

    wire = wires.ByNccl(one_of(2, 0), Nccl(), Cuda)
    started = [wire.start(np.ones(3))]
    wire.nudge(started)
    wire.finish(started)
    assert log == [
        "side waits for what main has done", "sum on side", "main waits for what side has done"
    ]  # fmt: skip


def test_without_cupyx_there_is_no_nccl(cupy):
    assert backend.nccl(2, 0) is None


def test_one_rank_a_device():
    r = one_of(4, 3)
    r.local = 1
    assert [r.device(name) for name in ("cpu", "cuda:0", "cuda:3")] == ["cpu", "cuda:1", "cuda:1"]


# ----------------------------------------------------------------------------- the bad endings


@with_mpi
@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("raise", r"tinygrad-mha: rank 1: no more patience\n"),
        ("bug", r"tinygrad-mha: rank 1: Traceback[^$]*KeyError: 'a bug'\n"),
        ("drift", r"the weights of rank 1 are not those of rank 0; give all ranks the same"),
    ],
)
def test_a_rank_that_fails_ends_all_with_its_reason(tmp_path, how, line):
    status, _, err = ended(2, HERE / "rank_work.py", how, tmp_path)
    assert status != 0
    assert len(re.findall(line, err)) == 1, err


@with_mpi
def test_a_rank_that_dies_ends_all(tmp_path):
    began = time.monotonic()
    status, _, _ = ended(2, HERE / "rank_work.py", "die", tmp_path)
    assert status != 0
    assert time.monotonic() - began < 30
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- the command line

TRAIN = (
    "-m", "tinygrad_mha", "train", "d.csv", "--d-model", "16", "--heads", "2", "--epochs", "3",
    "--batch-size", "10", "--early-stopping", "0", "--workers", "1",
)  # fmt: skip

# Adam divides the gradient of a bias of keys, which is rounding alone, by its own size
SGD = ("--optimizer", "sgd", "--lr", "0.05")


LONG = (*TRAIN, "--epochs", "9")


def write_data(place):
    rng = np.random.default_rng(0)
    words = {"x": ["red", "green", "blue"], "y": ["one", "two", "three"]}
    rows = [f"{' '.join(rng.choice(words[c], 4))} {k},{c}" for k in range(80) for c in "xy"]
    (place / "d.csv").write_text("\n".join(["text,label", *rows]))
    return place


@pytest.fixture
def place(tmp_path):
    return write_data(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights of a job of two ranks that nothing has ended."""
    place = write_data(tmp_path_factory.mktemp("undisturbed"))
    status, _, err = ended(2, *LONG, "--out", "m", cwd=place)
    assert status == 0, err
    return weights(place / "m")


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


@with_mpi
def test_the_command_line_trains_with_ranks(place):
    assert subprocess.run([sys.executable, *TRAIN, *SGD, "--out", "one"], cwd=place).returncode == 0
    status, out, err = ended(2, *TRAIN, *SGD, "--out", "two", "--json", cwd=place)
    assert status == 0, err
    assert [json.loads(line)["model"] for line in out.splitlines() if line[0:1] == "{"] == ["two"]
    assert err.count("rows;") == err.count("epoch  3") == 1  # rank 0 speaks for all
    one, two = weights(place / "one"), weights(place / "two")
    for name, a in one.items():
        np.testing.assert_allclose(two[name], a, rtol=0, atol=2e-5, err_msg=name)


@with_mpi
def test_a_wrong_option_is_told_once(place):
    status, _, err = ended(2, *TRAIN, "--heads", "3", cwd=place)
    assert status == 2
    assert err.count("tinygrad-mha:") == err.count("not divisible by 3 heads") == 1
    assert "Abort" not in err


@with_mpi
def test_standard_input_is_for_one_process(place):
    status, _, err = ended(2, "-m", "tinygrad_mha", "train", "-", cwd=place)
    assert status == 2
    assert err.count("mpiexec hands standard input to rank 0 alone; give a file") == 1


def pid_of(rank):
    """The process of a rank: Linux shows what it was started with."""
    for place in list(Path("/proc").glob("[0-9]*")):
        try:
            given = (place / "environ").read_bytes().split(b"\0")
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue
        numbers = {b"PMI_RANK=%d" % rank, b"OMPI_COMM_WORLD_RANK=%d" % rank}
        ours = f"TEST_OF_RANKS={os.getpid()}".encode() in given and numbers & {*given}
        if ours and b"mpiexec" not in command:
            return int(place.name)
    raise AssertionError(f"no rank {rank}")


def until(job, words):
    """What a job says on standard error, up to a line with ``words``."""
    heard = ""
    for line in job.stderr:
        heard += line
        if words in line:
            return heard
    raise AssertionError(heard)


@with_mpi
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc to find a rank in")
@pytest.mark.parametrize("how", ["killed", "stopped", "interrupted"])
def test_a_job_goes_on_from_its_last_checkpoint(place, how, undisturbed, monkeypatch):
    """A rank that is killed ends the job at once; one that is told to stop lets all stop."""
    monkeypatch.setenv("TEST_OF_RANKS", str(os.getpid()))
    with started(2, *LONG, "--out", "m", "--checkpoint-every", "3", cwd=place) as job:
        heard = until(job, "checkpoint after step 6")
        if how == "interrupted":
            os.killpg(job.pid, signal.SIGINT)  # as Ctrl-C does
        else:
            os.kill(pid_of(1), signal.SIGKILL if how == "killed" else signal.SIGTERM)
        heard += job.communicate(timeout=30)[1]
    assert job.returncode != 0
    command = "mpiexec -n 2 tinygrad-mha train --resume m\n"
    assert f"to go on from it: {command}" in heard
    if how == "stopped":  # at Ctrl-C, Open MPI's mpiexec no longer passes on what is said
        assert re.search(rf"interrupted after step \d+; to go on: {command}", heard), heard
    assert not (place / "m" / "model.safetensors").exists()
    if how != "killed":
        assert "Abort" not in heard
    status, _, err = ended(2, "-m", "tinygrad_mha", "train", "--resume", "m", cwd=place)
    assert status == 0, err
    resumed = weights(place / "m")
    for name, a in undisturbed.items():
        np.testing.assert_array_equal(resumed[name], a)
