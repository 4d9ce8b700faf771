"""A training that is ended before its end: what is kept, what is said, and how it goes on."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_finetune import Letters, pretrained_folder

from tests import kill
from tinygrad_mha.models import checkpoint, cli, fine_tuned, finetune, signals
from tinygrad_mha.models import run as run_module
from tinygrad_mha.models import train as training

QUICK = [*kill.SMALL, "--epochs", "3"]


pytestmark = pytest.mark.usefixtures("signal_handlers")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kill.write_data("data.csv", rows=90)
    return tmp_path


@pytest.fixture
def here(capsys):
    def run(*arguments):
        status = cli.main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return run


@contextlib.contextmanager
def told_to_stop(*steps, number=signal.SIGTERM):
    """Inside, the signal comes after each of these steps."""
    left, after_step = list(steps), checkpoint.Checkpoints.after_step

    def asked(self, run):
        if left and run.step >= left[0]:
            left.pop(0)
            self.stops(number)
        after_step(self, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "after_step", asked)
        yield


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def what_happened(folder):
    """The history without what depends on the clock."""
    metrics = json.loads((Path(folder) / "metrics.json").read_text())
    for said in metrics["history"]:
        said.pop("tokens_per_second")
    return [metrics[k] for k in ("history", "valid_loss", "epochs", "rows", "test")]


# ------------------------------------------------------------------------------ to the same end


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--optimizer", "sgd", "--level", "char", "--class-weight", "balanced"],
        ["--optimizer", "adam", "--workers", 2, "--batch-size", 32, "--d-model", 64],
        ["--early-stopping", 1, "--epochs", 9],
        ["--max-steps", 19, "--memory", 1],
    ],
)
def test_it_ends_with_the_same_bits(place, here, more):
    """Stopped after the first step, inside an epoch, at the end of one, and at the very end."""
    status, _, err = here("train", "data.csv", "--out", "calm", *QUICK, *more)
    assert status == 0, err
    last = json.loads((place / "calm" / "config.json").read_text())
    batch = last["training"]["batch_size"]
    rows = json.loads((place / "calm" / "metrics.json").read_text())["rows"]["fit"]
    epoch = -(-rows // batch)
    stops = (1, epoch // 2 + 1, epoch, epoch + 2)
    with told_to_stop(*stops):
        status, _, err = here("train", "data.csv", "--out", "torn", *QUICK, *more)
        assert status == 143
        assert "after step 1; to go on: tinygrad-mha train --resume torn\n" in err
        for stop in stops[1:]:
            status, _, err = here("train", "--resume", "torn")
            assert (status, f"interrupted after step {stop}; " in err) == (143, True), err
            assert set(os.listdir("torn")) == {checkpoint.NAME}
        again, out2, err = here("train", "--resume", "torn", "--json")
        assert f"checkpoint.safetensors: goes on after step {stops[-1]}\n" in err
    assert again == 0
    assert weights("torn") == weights("calm")
    assert what_happened("torn") == what_happened("calm")
    assert set(os.listdir("torn")) == set(os.listdir("calm"))
    summary = json.loads(out2.splitlines()[-1])
    assert summary["model"] == "torn"
    # and once more: it tells the same without training
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", None)
        status, out3, err = here("train", "--resume", "torn", "--json")
    assert (status, out3) == (0, out2)
    assert "had come to its end" in err


@pytest.mark.parametrize("tune", ["attention", "all", "head", "lora"])
def test_a_fine_tuning_ends_with_the_same_bits(place, here, monkeypatch, tune):
    monkeypatch.setattr(finetune, "WordPiece", Letters)
    monkeypatch.setattr(fine_tuned, "WordPiece", Letters)
    base = pretrained_folder(place / "base")
    options = ["--base", base, "--tune", tune, "--epochs", 2, "--workers", 1, "--max-len", 6]
    options += ["--batch-size", 8, "--accumulate", 2]
    assert here("finetune", "data.csv", "--out", "calm", *options)[0] == 0
    with told_to_stop(3, 5):
        status, _, err = here("finetune", "data.csv", "--out", "torn", *options)
        assert status == 143
        assert "to go on: tinygrad-mha finetune --resume torn" in err
        status, _, err = here("predict", "torn")
        assert "; to go on: tinygrad-mha finetune --resume torn\n" in err
        assert here("finetune", "--resume", "torn")[0] == 143
    status, _, err = here("train", "--resume", "torn")
    assert status == 2
    assert "this run is one of 'finetune': tinygrad-mha finetune --resume torn\n" in err
    assert here("finetune", "--resume", "torn")[0] == 0
    for name in {"model.safetensors", "adapter.safetensors"} & set(os.listdir("calm")):
        assert (place / "torn" / name).read_bytes() == (place / "calm" / name).read_bytes()
    assert what_happened("torn") == what_happened("calm")


def test_told_to_stop_while_it_measures(place, here, monkeypatch):
    """The signal comes when nobody looks until the run is over."""
    assert here("train", "data.csv", "--out", "calm", *QUICK)[0] == 0
    measure, epochs = run_module.measure, []

    def told(*a):
        epochs.append(0)
        if len(epochs) == 3:
            signal.raise_signal(signal.SIGINT)
        return measure(*a)

    monkeypatch.setattr(run_module, "measure", told)
    status, _, err = here("train", "data.csv", "--out", "torn", *QUICK)
    assert status == 130, err
    monkeypatch.setattr(run_module, "measure", measure)
    assert here("train", "--resume", "torn")[0] == 0
    assert weights("torn") == weights("calm")


# --------------------------------------------------------------------------------------- killed


def test_killed_at_operations_on_the_disk(tmp_path):
    total, found = kill_points(tmp_path, 53)
    assert total > 100
    assert found["checkpoint"]


def kill_points(tmp_path, stride):
    """In a process of its own: it forks."""
    code = (
        "import sys; from tests import kill; "
        "total, found = kill.at_every_operation(sys.argv[1], int(sys.argv[2])); "
        "import json; print(json.dumps([total, dict(found)]))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, str(stride)],
        capture_output=True, text=True, cwd=root, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_random_moments(tmp_path):
    assert kill.at_random_moments(tmp_path, 2, more=("--epochs", "2")).total() == 2


@pytest.mark.long
def test_killed_at_every_operation_and_fifty_moments(tmp_path):
    for name in ("operations", "moments"):
        (tmp_path / name).mkdir()
    kill_points(tmp_path / "operations", 1)
    assert kill.at_random_moments(tmp_path / "moments", 50).total() == 50


# -------------------------------------------------------------------------------------- signals


def started(*arguments, **how):
    """A training in a process of its own that has made its first epoch."""
    process = subprocess.Popen(
        kill.command("data.csv", *kill.SMALL, *arguments, "--epochs", 100000,
                     "--early-stopping", 0),
        stderr=subprocess.PIPE, **how,
    )  # fmt: skip
    while b"epoch  1" not in (line := process.stderr.readline()):
        assert line, "it ended"
    return process


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal(place, name):
    number = getattr(signal, name)
    heard = lambda: signal.signal(number, signal.SIG_DFL)  # under nohup, we ourselves ignore it
    process = started("--out", "model", preexec_fn=heard)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 128 + number
    assert "; to go on: tinygrad-mha train --resume model\n" in err
    assert checkpoint.read("model").words["run"]["step"] > 0


def test_a_whole_group_is_told_to_stop(place):
    """As `timeout` and service managers do: the workers leave it to their parent."""
    process = started("--out", "model", "--workers", 2, "--d-model", 64, "--batch-size", 64,
                      start_new_session=True)  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if children.exists():
        assert children.read_text().split()
    os.killpg(process.pid, signal.SIGTERM)
    err = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 143
    assert err.count("tinygrad-mha: ") == 1
    assert "interrupted after step" in err


def test_who_asked_to_hear_nothing_is_not_disturbed(place):
    """nohup: the signal was ignored before we came, and stays ignored."""
    ignored = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    process = started("--out", "model", preexec_fn=ignored)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    process.communicate()
    assert process.returncode == 143


def test_an_impatient_user(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(signals, "ignore", lambda: None)
    stops = signals.Stops()
    with stops.looked_at():
        stops(signal.SIGINT)
        stops(signal.SIGINT)  # the key was pressed twice
        now[0] += 10
        with pytest.raises(signals.Stopped):
            stops(signal.SIGINT)  # that is meant
    with pytest.raises(signals.Stopped):  # nobody looks
        signals.Stops()(signal.SIGTERM)


def test_without_checkpoints_nothing_is_written(place, here):
    with told_to_stop(2):
        status, _, err = here(
            "train", "data.csv", "--out", "model", *QUICK, "--checkpoint-every", 0
        )
    assert status == 143
    assert err.endswith("tinygrad-mha: interrupted; no model was written\n")
    assert not os.path.exists("model")


# ------------------------------------------------------------------------------------ full disk


def test_a_full_disk(place, here, monkeypatch):
    """A small file system of its own, where we may make one."""
    disk = place / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("may not mount a file system here")
    try:
        run_on_a_full_disk(here, disk)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def run_on_a_full_disk(here, disk):
    assert here("train", "data.csv", "--out", "calm", *QUICK)[0] == 0
    after_step = checkpoint.Checkpoints.after_step
    filler = disk / "filler"

    def fill(self, run):
        after_step(self, run)
        if run.step == 4:
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "after_step", fill)
        status, out, err = here(
            "train", "data.csv", "--out", disk / "model", *QUICK, "--checkpoint-every", 2
        )
    assert (status, out) == (1, "")
    told = [line for line in err.splitlines() if "no space left" in line]
    assert len(told) == 2  # once, and at the end
    assert told[0].endswith(
        "no checkpoint (no space left on device); the last one is that of step 4; "
        "the training goes on"
    )
    assert told[1].endswith("free space or choose another place")
    assert f"the checkpoint of step 4 is kept; to go on: tinygrad-mha train --resume {disk}" in err
    assert {p.name for p in disk.rglob("*")} == {"filler", "model", checkpoint.NAME}
    filler.unlink()
    assert here("train", "--resume", disk / "model")[0] == 0
    assert weights(disk / "model") == weights("calm")


def test_files_that_may_not_grow(place):
    """The same by a limit, which needs no rights: no file may have more than 4 kB."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    done = subprocess.run(
        kill.command("data.csv", *QUICK, "--out", "model", "--checkpoint-every", 2),
        capture_output=True, text=True, preexec_fn=limit, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "checkpoint.safetensors: no checkpoint (file too large); the last one is" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tinygrad-mha: model: file too large; ")
    assert os.listdir("model") == []


# -------------------------------------------------------------------------------- what is refused


@pytest.fixture
def torn(place, here):
    with told_to_stop(3):
        assert here("train", "data.csv", "--out", "torn", *QUICK)[0] == 143
    return place / "torn"


def refused(here, *arguments, says):
    status, out, err = here("train", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert all(word in err for word in says), err


def test_what_cannot_go_on(torn, here, monkeypatch):
    refused(here, "--resume", "none", says=["none: no such folder", "start without --resume"])
    Path("empty").mkdir()
    refused(here, "--resume", "empty", says=["no checkpoint", "give DATA"])
    refused(here, "--resume", torn, "--lr", 0.5, says=["--lr is '0.5'", "began with '0.003'"])
    refused(here, "--resume", torn, "--weight-decay", 1, says=["began without it"])
    refused(here, "--resume", torn, "--layers", 2, says=["--layers is '2'"])
    refused(here, "--resume", torn, "--heads", 4, says=["--heads is '4'", "began with '2'"])
    refused(here, "--resume", torn, "--no-bidirectional", says=["--bidirectional is 'False'"])
    refused(here, "--resume", torn, "--text-column", "x", says=["--text-column is 'x'"])
    # what was said before may be said again, and where things are and how they run may change
    Path("data.csv").rename("moved.csv")
    refused(
        here, "--resume", torn, says=["data.csv: this run's DATA is not here", "torn PATH/data.csv"]
    )
    again = ["moved.csv", "--resume", torn, *QUICK, "--text-column", "text", "--workers", 1]
    assert here("train", *again, "--out", "elsewhere")[0] == 0
    assert (torn / checkpoint.NAME).exists()


def test_other_texts_are_noticed(torn, here):
    lines = Path("data.csv").read_text().splitlines()
    kill.write_data("data.csv", rows=90, seed=2)
    status, _, err = here("train", "--resume", torn)
    assert status == 2
    assert "the texts or labels are not those that this run began with" in err
    lines[1] = lines[1].replace(",red", ",blue")
    Path("data.csv").write_text("\n".join(lines) + "\n")
    assert here("train", "--resume", torn)[0] == 2


def test_a_checkpoint_of_another_version(torn, here, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    refused(here, "--resume", torn, says=["version '1'", "reads version 2", "--resume"])


def test_a_damaged_checkpoint(torn, here):
    path = torn / checkpoint.NAME
    good = path.read_bytes()
    for size in (0, 7, 8, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        refused(here, "--resume", torn, says=["is damaged", "start again"])
    path.write_bytes((10**15).to_bytes(8, "little") + good[8:])
    refused(here, "--resume", torn, says=["is damaged"])
    for old, new in (
        (b'\\"step\\": 3', b'\\"step\\": 9999'), (b'\\"position\\": 3', b'\\"position\\": -3'),
        (b'\\"waited\\": 0', b'\\"waited\\": {}'), (b'\\"best_loss\\"', b'\\"best_gain\\"'),
        (b"best.0", b"best.x"), (b'\\"d_model\\": 8', b'\\"d_model\\": []'),
        (b'\\"d_model\\": 8', b'\\"d_model\\": 999999999'),
        (b'\\"d_model\\": 8', b'\\"d_model\\": NaN'), (b'\\"loss_sum\\"', b'\\"loss\\"'),
        (b"optimizer.group.0.lr", b"optimizer.group.9.lr"), (b"PCG64", b"PCG99"),
        (b'"F32"', b'"F8_E5M2"'),
        (b'\\"hits\\": ', b'\\"hits\\": 1e999, \\"x\\": '),
    ):  # fmt: skip
        assert old in good, old
        head, length = good.replace(old, new), int.from_bytes(good[:8], "little")
        length += len(head) - len(good)
        path.write_bytes(length.to_bytes(8, "little") + head[8:])
        status, _, err = here("train", "--resume", torn)
        assert (status, err.count("tinygrad-mha: ")) == (2, 1), (old, err)
        assert "start again without --resume" in err, (old, err)
    path.write_bytes(good)
    assert here("train", "--resume", torn)[0] == 0


def test_a_folder_that_waits_for_its_model(torn, here, capsys):
    status, _, err = here("predict", torn, "data.csv")
    assert status == 2
    assert "was interrupted; to go on: tinygrad-mha train --resume" in err
    (torn / "notes.txt").write_text("mine")
    refused(here, "data.csv", "--out", torn, says=["holds 'notes.txt'"])


def test_no_checkpoint_yet(place, here):
    """Killed before the first: the same command begins again, told in one line."""
    Path("model").mkdir()
    status, _, err = here("train", "data.csv", "--out", "model", "--resume", "model", *QUICK)
    assert status == 0
    assert "model: no checkpoint yet; this run starts from its beginning\n" in err


def test_an_old_model_is_not_the_run(place, here):
    """A model of other settings or data lay there when the run was killed before its first."""
    assert here("train", "data.csv", "--out", "model", *QUICK, "--seed", 1)[0] == 0
    old = weights("model")
    again = ["train", "data.csv", "--out", "model", "--resume", "model", *QUICK]
    status, _, err = here(*again)
    assert (status, weights("model") == old) == (0, False)
    assert "no checkpoint yet" in err
    status, _, err = here(*again)
    assert (status, "had come to its end" in err) == (0, True)
    shutil.copy("data.csv", "other.csv")
    again[1] = "other.csv"
    assert "no checkpoint yet" in here(*again)[2]


# ----------------------------------------------------------------------------------- small parts


def test_how_often():
    assert checkpoint.every("7") == (7, 0)
    assert checkpoint.every("2h") == (0, 7200)
    for bad in ("", "-1", "1.5", "m", "3d", "9" * 10):
        with pytest.raises(ValueError, match="should be a number of steps"):
            checkpoint.every(bad)


def test_by_the_clock(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])

    class Run:
        step = 0

        def state(self):
            return {"step": self.step}, {"a": np.arange(3.0)}

        def restore(self, words, arrays):
            self.step, self.a = words["step"], arrays["a"]

    run, kept = Run(), checkpoint.Checkpoints(tmp_path, checkpoint.Every(seconds=60))
    kept.begin(run, "texts")
    written = []
    for run.step in range(1, 11):
        now[0] += 25
        kept.after_step(run)
        written.append(kept.last)
    assert written == [None, None, 3, 3, 3, 6, 6, 6, 9, 9]
    other = Run()
    checkpoint.Checkpoints(tmp_path, saved=checkpoint.read(tmp_path)).begin(other, "texts")
    assert other.step == 9
    np.testing.assert_array_equal(other.a, np.arange(3.0))


def test_the_file_is_safetensors(tmp_path):
    """Written by us, read by the library: every dtype, no numbers, one number, gaps in memory."""
    from safetensors.numpy import load_file

    arrays = {
        "f4": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2], "f8": np.array(0.1),
        "none": np.zeros((0, 3)), "flag": np.array(True), "i": np.arange(3),
        "u": np.arange(5, dtype=np.uint8), "big": np.arange(3, dtype=">f4"), "f2": np.ones(3, "f2"),
    }  # fmt: skip
    path = tmp_path / "x"
    path.write_bytes(b"".join(bytes(p) for p in checkpoint.in_safetensors({"a": 1}, arrays)))
    found = load_file(path)
    assert found.keys() == arrays.keys()
    for name, a in arrays.items():
        np.testing.assert_array_equal(found[name], a)
        assert found[name].dtype == a.dtype.newbyteorder("="), name
