"""``tinygrad-mha doctor``: on a sound machine it says so, and each lie of a device is found out."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import real_cupy_wanted, without_kernel

import tinygrad_mha as tg
from tinygrad_mha import REGISTRY, backend, device_check
from tinygrad_mha.kernels import launch
from tinygrad_mha.kernels.table import KERNELS
from tinygrad_mha.models import cli, doctor

FUSED = [name for name, op in REGISTRY.items() if op.reference is not None]


@pytest.fixture
def examine(capsys, monkeypatch, tmp_path):
    """Runs the command in an empty folder, with a small model to train; status, output, errors."""
    monkeypatch.setattr(backend, "_default_device", None)
    monkeypatch.setattr(doctor, "LOAD", doctor.Load(50, 16, 4, 6, classes=3, steps=3))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        return cli.main(["doctor", *map(str, arguments)]), *capsys.readouterr()

    return run


def plant(monkeypatch, name, forward):
    """Put a fault into an op: no kernel stands in for it."""
    without_kernel(monkeypatch, name)
    monkeypatch.setattr(REGISTRY[name], "forward", forward)


def on_the_device(change, device="cuda:0"):
    """What wraps a forward so that its results on one device are changed."""

    def wrap(forward):
        def changed(*args, **params):
            out = forward(*args, **params)
            there = any(backend.is_array(a) and backend.device_of(a) == device for a in args)
            return change(out) if there else out

        return changed

    return wrap


# ----------------------------------------------------------------------------- a sound machine


def test_a_sound_cpu(examine):
    status, out, err = examine()
    assert (status, err) == (0, "")
    assert f"tinygrad_mha {tg.__version__}, Python " in out
    assert re.search(r"^BLAS: .*, \d+ threads$", out, re.MULTILINE)
    assert "\ncpu: a matrix product is right\n" in out
    assert f"\ncpu: {len(FUSED)} fused ops against their references, results and grad" in out
    assert out.endswith("cuda: not tried; try it with --device cuda\n")


def test_a_sound_gpu(examine, cupy):
    status, out, err = examine("--device", "cuda", "--json")
    assert (status, err) == (0, "")
    *lines, last = out.splitlines()
    assert lines[-1] == "cuda:0 works: it computes what the CPU computes"
    for line in (
        "cpu: a matrix product is right",
        "cuda:0: a matrix product is right",
        r"cuda:0: .*, compute capability \d+\.\d, [\d.]+ GB of [\d.]+ GB free",
        r"cuda:0: driver .* \(CUDA [\d.]+\), cupy.* [\d.]+ \(CUDA [\d.]+\), kernels of our own: .*",
        f"cuda:0: {len(REGISTRY)} ops against the CPU, .*",
        r"3 training steps \(vocabulary 50, d 16, batch 4, 6 tokens; .*",
        r"  cpu +[\d.]+ s +[\d,]+ +\d\.\d+ +\d\.\d+",
        r"  cuda:0 +[\d.]+ s +[\d,]+ +\d\.\d+ +\d\.\d+",
        r"  cuda:0 is [\d.]+ times as fast as \d+ cores of the CPU",
        r"  largest difference: of a gradient .* \(.*\), of a loss .*",
    ):
        assert any(re.fullmatch(line, told) for told in lines), line
    table = lines.index(next(line for line in lines if line.startswith("  op ")))
    assert lines[table + 1 + doctor.SHOWN].startswith("  … the other ")
    found = json.loads(last)
    assert found["passed"] is True
    assert found["problems"] == []
    assert found["device"] == "cuda:0"
    assert set(found["ops"]) == set(REGISTRY)
    assert all(set(apart) == {"float32", "float64"} for apart in found["ops"].values())
    assert all(apart["float64"] < 1e-14 for apart in found["ops"].values())
    assert all(apart["float32"] < 1e-5 for apart in found["ops"].values())
    for device in ("cpu", "cuda:0"):
        training = found["training"][device]
        assert training["tokens_per_second"] > 0
        assert len(training["losses"]) == 1 + 3
    assert found["training"]["largest_loss_difference"] < 1e-5
    assert found["training"]["largest_gradient_difference"] < 1e-4
    assert found["gpu"]["memory_bytes"] >= found["gpu"]["memory_free_bytes"] > 0


def test_whether_kernels_are_on(examine, cupy, monkeypatch):
    monkeypatch.setattr(doctor, "compare_ops", lambda *_: {})
    monkeypatch.setattr(doctor, "compare_training", lambda *_: {})
    on = real_cupy_wanted()  # the double has none
    for switch, said, names in (
        (True, f"for {len(KERNELS)} ops" if on else "off", sorted(KERNELS) if on else []),
        (False, "off", []),
    ):
        monkeypatch.setattr(launch, "ON", switch)
        out = examine("--device", "cuda", "--json")[1]
        assert f", kernels of our own: {said}\n" in out
        assert json.loads(out.splitlines()[-1])["kernels"] == names


def test_it_trains_what_it_says(cupy):
    """Every step changes the loss, so it is a step; ten of them are timed by default."""
    load = doctor.Load(50, 16, 8, 6, classes=3)
    for device in ("cpu", "cuda:0"):
        t = doctor.train_steps(device, load)
        assert len(t.losses) == 11
        assert {"embedding.weight", "rnn.weight_ih_l0", "fc.bias"} <= set(t.gradients)
        assert all(type(d) is np.ndarray for d in t.gradients.values())
        assert len(set(t.losses)) == 11
    assert doctor.Load() == doctor.Load(10_000, 128, 32, 64, steps=10)


def test_the_clock_is_read_when_the_device_is_done(cupy, monkeypatch):
    """Each reading comes right after a wait: work that is only queued would count as done."""
    events = []
    clock, wait = doctor.time.perf_counter, backend.synchronize
    monkeypatch.setattr(
        doctor.time, "perf_counter", lambda: events.append("clock") or clock()
    )  # fmt: skip
    monkeypatch.setattr(
        backend, "synchronize", lambda device: events.append(device) or wait(device)
    )  # fmt: skip
    doctor.train_steps("cuda:0", doctor.Load(50, 16, 4, 6, classes=3, steps=2))
    assert events == ["cuda:0", "clock"] * 4


def test_everything_is_as_before(examine, cupy):
    tg.set_default_device("cuda")
    assert examine()[0] == 0  # the default is what it looks at
    assert backend.default_device() == "cuda:0"


# ---------------------------------------------------------------------------- what it finds out


def test_a_wrong_op_of_the_cpu(examine, monkeypatch):
    wrong = on_the_device(lambda out: (out[0] * (1 + 1e-3), out[1]), "cpu")
    plant(monkeypatch, "softmax", wrong(REGISTRY["softmax"].forward))
    status, _, err = examine()
    assert status == 1
    assert re.match(r"tinygrad-mha: cpu: softmax is wrong in float32, by \d", err)
    assert "cpu: softmax is wrong in float64, by " in err
    assert len(err.splitlines()) == 1


def test_a_wrong_product(examine, monkeypatch):
    matmul = REGISTRY["matmul"].forward
    plant(monkeypatch, "matmul", lambda a, b: matmul(a, b) + 1e-3)
    status, out, err = examine()
    assert status == 1
    assert "cpu: a matrix product is WRONG" in out
    assert "cpu: a matrix product is wrong: install NumPy" in err


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wrong_result_of_the_device(dtype, examine, cupy, monkeypatch):
    def change(y):
        return y * y.dtype.type(1 + 1e-3) if y.dtype == dtype else y

    plant(monkeypatch, "tanh", on_the_device(change)(REGISTRY["tanh"].forward))
    status, _, err = examine("--device", "cuda")
    assert status == 1
    assert err.startswith(f"tinygrad-mha: cuda:0: tanh is wrong in {dtype}, by 5")
    assert err.count(" is wrong in ") == 1


def test_a_wrong_gradient_of_the_device(examine, cupy, monkeypatch):
    """A gradient that a cotangent of ones would not see: softmax that sends nothing back."""

    def change(out):
        y, _ = out
        return y, lambda g: (g * 0,)

    plant(monkeypatch, "softmax", on_the_device(change)(REGISTRY["softmax"].forward))
    status, _, err = examine("--device", "cuda")
    assert status == 1
    assert "cuda:0: softmax is wrong in float32, by " in err


def test_an_op_that_does_not_run_on_the_device(examine, cupy, monkeypatch):
    def change(_):
        raise RuntimeError("no such kernel\nand more")

    for name in ("erf", "gelu", "lstm", "rms_norm"):
        plant(monkeypatch, name, on_the_device(change)(REGISTRY[name].forward))
    monkeypatch.setattr(doctor, "compare_training", lambda *_: {})
    status, out, err = examine("--device", "cuda", "--json")
    assert status == 1
    assert "cuda:0: lstm fails in float32: no such kernel; " in err
    assert err.endswith("; and 3 more, all in --report\n")
    assert len(err.splitlines()) == 1
    found = json.loads(out.splitlines()[-1])
    assert len(found["problems"]) == 8
    assert "works" not in out
    assert set(found["ops"]) == set(REGISTRY) - {"erf", "gelu", "lstm", "rms_norm"}


def test_an_op_that_falls_back_to_the_cpu(examine, cupy, monkeypatch):
    plant(monkeypatch, "sin", on_the_device(backend.to_host)(REGISTRY["sin"].forward))
    status, _, err = examine("--device", "cuda")
    assert status == 1
    assert "cuda:0: sin fails in float32: a result is on cpu; " in err


@pytest.mark.parametrize(
    ("part", "what"),
    [("gradients", r"the gradient of rnn\.weight_hh_l0 is wrong, by 2"), ("losses", "the losses")],
)
def test_a_training_that_goes_astray(part, what, examine, cupy, monkeypatch):
    steps = doctor.train_steps

    def astray(device, load):
        t = steps(device, load)
        if device != "cpu":
            if part == "gradients":
                t.gradients["rnn.weight_hh_l0"] *= -1
            else:
                t.losses[-1] += 0.01
        return t

    monkeypatch.setattr(doctor, "train_steps", astray)
    monkeypatch.setenv("CUPY_TF32", "1")
    status, _, err = examine("--device", "cuda")
    assert status == 1
    assert re.match(f"tinygrad-mha: cuda:0: {what}.*; CUPY_TF32 is set: unset CUPY_TF32$", err)


def test_a_gradient_that_is_nothing_but_rounding():
    """It may be all wrong; NaN never is right."""
    want = {"weight": np.array([1.0, -2.0]), "zero": np.array([1e-9])}
    name, apart = doctor.gradients_apart(want | {"zero": np.array([-1e-9])}, want)
    assert (name, apart) == ("zero", pytest.approx(1e-6))
    assert doctor.gradients_apart(want | {"weight": np.array([1.0, -2.1])}, want) == (
        "weight",
        pytest.approx(0.05),
    )
    name, apart = doctor.gradients_apart(want | {"zero": np.array([np.nan])}, want)
    assert name == "zero"
    assert not apart <= doctor.GRADIENTS_APART


@pytest.mark.parametrize(
    ("got", "want", "apart"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.1], [0.2], 0.1),  # below 1 it is the difference itself
        ([100.0, 1.0], [100.0, 2.0], 0.01),
        ([np.inf, np.nan, 1.0], [np.inf, np.nan, 1.0], 0.0),
        ([np.nan], [1.0], np.inf),
        ([np.inf], [-np.inf], np.inf),
        ([1.0], [[1.0]], np.inf),
        ([], [], 0.0),
    ],
)
def test_how_differences_are_measured(got, want, apart):
    found = doctor.largest_difference([np.zeros(2), np.array(got)], [np.zeros(2), np.array(want)])
    assert found == pytest.approx(apart)


def test_another_dtype_is_no_small_difference():
    assert doctor.largest_difference([np.zeros(2, np.float32)], [np.zeros(2)]) == np.inf


# --------------------------------------------------------------------------------- the report


def test_the_report_has_a_name_of_its_own(examine, tmp_path):
    status, out, _ = examine("--report")
    assert status == 0
    assert out.endswith("\nthe report is in tinygrad_mha-doctor.json\n")
    assert json.loads((tmp_path / "tinygrad_mha-doctor.json").read_text())["passed"] is True


def test_the_report_can_be_shown_to_others(examine, cupy, monkeypatch, tmp_path):
    """One JSON object: the machine, the versions, the differences, the speeds; nobody's name."""
    names = {
        str(Path.home()),
        Path.home().name,
        str(tmp_path),
        sys.prefix,
        os.sep + "site-packages",
    }
    status, _, _ = examine("--device", "cuda", "--report", tmp_path / "found.json")
    assert status == 0
    text = (tmp_path / "found.json").read_text()
    assert not [name for name in names if len(name) > 3 and name in text]
    found = json.loads(text)
    assert {
        "tinygrad_mha", "python", "system", "cpu", "cores", "numpy", "blas", "device", "gpu",
        "kernels", "ops", "training", "passed", "problems",
    } <= set(found)  # fmt: skip
    assert {
        "name", "compute_capability", "memory_bytes", "driver", "driver_cuda", "runtime_cuda",
        "cupy", "cupy_package",
    } <= set(found["gpu"])  # fmt: skip


def test_the_report_of_a_machine_that_fails(examine, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(device_check, "cupy_packages", list)
    monkeypatch.setattr(device_check, "driver_cuda", lambda: 12090)
    status, out, err = examine("--device", "cuda", "--report", "--json")
    assert status == 2
    assert "CuPy is not installed; pip install" in err
    found = json.loads((tmp_path / "tinygrad_mha-doctor.json").read_text())
    assert found["passed"] is False
    assert len(found["problems"]) == 1
    assert found["problems"][0] in err
    assert found["numpy"] == np.__version__
    assert json.loads(out.splitlines()[-1]) == found


def test_no_path_of_an_error_gets_into_the_report(examine, monkeypatch, tmp_path):
    def fails(*_, **__):
        raise RuntimeError(f"{Path.home()}/env of ada/lib/libx.so.12: cannot open shared object")

    plant(monkeypatch, "softmax", fails)
    status, out, err = examine("--report", "--json")
    assert status == 1
    text = (tmp_path / "tinygrad_mha-doctor.json").read_text()
    assert "softmax fails in float32: libx.so.12: cannot open" in text
    for said in (text, out, err):
        assert "ada" not in said


def test_a_report_that_cannot_be_written(examine, tmp_path):
    status, _, err = examine("--report", tmp_path / "no" / "such" / "folder.json")
    assert status == 1
    assert "no such file or directory" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ada/env/lib/libcublas.so.12: cannot open", "libcublas.so.12: cannot open"),
        (r"C:\Users\ada\cupy.py", "cupy.py"),
        ("see '/opt/x y/z'; 3/4 and tokens/s", None),
        (f"{Path.home()}/my files/x.so is missing", "x.so is missing"),
        ("driver 550.54.14, Linux-6.1", "driver 550.54.14, Linux-6.1"),
    ],
)
def test_paths_are_cut(text, shown):
    found = doctor.without_paths({"a": [text, 1, None, True]})["a"]
    assert found[1:] == [1, None, True]
    if shown is None:
        assert "/opt" not in found[0]
        assert found[0].endswith("3/4 and tokens/s")
    else:
        assert found[0] == shown


def test_as_a_user_runs_it(tmp_path):
    """In a process of its own, with warnings as errors, within seconds."""
    done = subprocess.run(
        [sys.executable, "-m", "tinygrad_mha", "doctor", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "error", "TINYGRAD_MHA_DEVICE": ""},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["passed"] is True
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not real_cupy_wanted(), reason="needs CuPy (TINYGRAD_MHA_REAL_CUPY=1)")
def test_facts_of_the_real_cupy():
    found = device_check.facts(backend.ready("cuda:0"), "cuda:0")
    assert re.fullmatch(r"\d+\.\d", found["compute_capability"])
    assert re.fullmatch(r"\d+\.\d+", found["driver_cuda"])
    assert found["memory_bytes"] >= found["memory_free_bytes"] > 0
    assert found["cupy_package"].startswith("cupy")
