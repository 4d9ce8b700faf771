"""``device="cuda"`` works or explains: every way a machine can fail has a message of its own.

The machines are played: by a CuPy that fails on purpose (cuda/faulty/cupy.py), and where
TINYGRAD_MHA_REAL_CUPY=1 finds CuPy on the emulator, by that.
"""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import strict_cupy
from conftest import real_cupy_wanted, without_kernel

import tinygrad_mha as tg
from tinygrad_mha import REGISTRY, Tensor, backend, device_check, nn, optim
from tinygrad_mha.models import cli
from tinygrad_mha.models.text import Vocabulary
from tinygrad_mha.models.trained import TrainedClassifier, build_model

FAULTY = Path(__file__).parent / "cuda" / "faulty"
CTK = r"pip install 'cupy-cuda12x\[ctk\]'"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this process believe to be on another machine, for one test."""
    before = {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "cupy"}
    search = importlib.metadata.distributions
    folder = tmp_path / "site-packages"
    folder.mkdir()

    def become(fault="", packages=("cupy-cuda12x",), driver=12090, **environment):
        for name in packages:
            info = folder / f"{name.replace('-', '_')}-14.2.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 14\n")
        monkeypatch.setattr(
            importlib.metadata, "distributions", lambda: search(path=[str(folder)])
        )  # fmt: skip
        monkeypatch.setattr(device_check, "driver_cuda", lambda: driver)
        environment = {"FAULT": fault, "FAULT_DRIVER": driver, **environment}
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name, text in environment.items():
            monkeypatch.setenv(name, str(text))
        for name in before:
            del sys.modules[name]
        if packages:
            monkeypatch.syspath_prepend(FAULTY)
        else:
            sys.modules["cupy"] = None

    yield become
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        del sys.modules[name]
    sys.modules.update(before)


def said(device="cuda"):
    with pytest.raises(tg.DeviceError) as caught:
        backend.ready(backend.check_device(device))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"device '{backend.check_device(device)}': ")
    return message


def matches(message, *parts):
    for part in parts:
        assert re.search(part, message), f"{part!r} is not in {message!r}"


BOTH = ("cupy-cuda12x", "cupy-cuda13x")
FAULTS = {  # name -> what the machine is like, what is said of it, and the cure
    "no CuPy": (
        {"packages": ()},
        "CuPy is not installed",
        r"pip install 'tinygrad_mha\[cuda12\]'$",
    ),
    "no CuPy, new driver": (
        {"packages": (), "driver": 13000},
        "not installed",
        r"pip install 'tinygrad_mha\[cuda13\]'$",
    ),
    "no CuPy, no driver": (
        {"packages": (), "driver": 0},
        "not installed; .*no NVIDIA driver here yet",
        r"pip install 'tinygrad_mha\[cuda12\]', or \[cuda13\] for",
    ),
    "broken CuPy": (
        {"fault": "broken"},
        r"cupy-cuda12x is installed but cannot be imported \(numpy.core",
        r"pip install --force-reinstall 'cupy-cuda12x\[ctk\]'$",
    ),
    "two wheels": (
        {"packages": BOTH},
        "cupy-cuda12x and cupy-cuda13x overwrite each other",
        r"pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install 'tinygrad_mha\[cuda12\]'$",
    ),
    "two wheels, new driver": (
        {"packages": BOTH, "driver": 13000},
        "overwrite",
        r"&& pip install 'tinygrad_mha\[cuda13\]'$",
    ),
    "no driver": (
        {"fault": "no-driver", "driver": 0},
        "no NVIDIA driver here",
        "sudo ubuntu-drivers install.*docker run --gpus all.*nvidia-smi",
    ),
    "old driver": (
        {"fault": "old-driver", "driver": 11040},
        r"knows CUDA 11\.4, cupy-cuda12x needs CUDA 12",
        r"; update the driver \(on Ubuntu: sudo ubuntu-drivers install",
    ),
    "driver older than the wheel": (
        {"fault": "old-driver", "driver": 12040, "packages": ("cupy-cuda13x",)},
        r"knows CUDA 12\.4, cupy-cuda13x needs CUDA 13",
        r"pip uninstall -y cupy-cuda13x && pip install 'tinygrad_mha\[cuda12\]'; or update",
    ),
    "old driver, CuPy built here": (
        {"fault": "old-driver", "driver": 11040, "packages": ("cupy",)},
        "cupy needs CUDA 12",
        "update",
    ),
    "no GPU": (
        {"fault": "no-device"},
        "driver, but no GPU is visible",
        "nvidia-smi -L .*--gpus all",
    ),
    "no GPU, no error": ({"FAULT_DEVICES": 0}, "driver, but no GPU is visible", "nvidia-smi -L"),
    "hidden GPU": (
        {"fault": "no-device", "CUDA_VISIBLE_DEVICES": ""},
        "CUDA_VISIBLE_DEVICES is ''",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    "updated driver": ({"fault": "mismatch"}, "driver was updated", "sudo reboot"),
    "CUDA does not start": (
        {"fault": "unknown"},
        r"does not start \(cudaErrorUnknown: unknown error\)",
        "nvidia-smi",
    ),
    "no headers": ({"fault": "no-headers"}, "no CUDA headers", CTK),
    "no headers, CuPy built here": (
        {"fault": "no-headers", "packages": ("cupy",)},
        "no CUDA headers",
        "conda install.*CUDA_PATH",
    ),
    "no NVRTC": ({"fault": "no-nvrtc"}, "NVRTC, CUDA's compiler, is missing", CTK),
    "no cuBLAS": ({"fault": "no-cublas"}, "cuBLAS, .*, is missing", CTK),
    "no other library": ({"fault": "no-other-library"}, r"a library is missing \(libcusome", CTK),
    "two toolkits": (
        {"fault": "compile"},
        r"does not compile .*versions",
        f"unset CUDA_PATH; {CTK}",
    ),
    "old GPU": (
        {"fault": "old-gpu", "packages": ("cupy-cuda13x",)},
        r"capability 6\.1 is too old for cupy-cuda13x",
        r"pip uninstall -y cupy-cuda13x && pip install 'tinygrad_mha\[cuda12\]'$",
    ),
    "somebody's GPU": (
        {"fault": "full"},
        r"out of memory at the first .*: 2\.1 MB asked for, 1\.0 MB of 8\.0 GB free",
        "nvidia-smi shows which other program",
    ),
    "somebody's GPU, CUDA": (
        {"fault": "context"},
        r"out of memory at the first .*: 1\.0 MB of",
        "nvidia-smi",
    ),
    "somebody's GPU, cuBLAS": (
        {"fault": "cublas-full"},
        "out of memory at the first",
        "nvidia-smi shows",
    ),
    "strange kernel": (
        {"fault": "strange"},
        r"a small kernel failed \(CUDARuntimeError: cudaErrorLaunchF",
        "nvidia-smi",
    ),
    "strange product": (
        {"fault": "strange-product"},
        r"a small matrix product failed \(ValueError: something",
        "nvidia-smi",
    ),
    "wrong numbers": ({"fault": "wrong"}, "a small matrix product is wrong", CTK),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_message_and_its_cure(name, machine):
    how, what, cure = FAULTS[name]
    machine(**how)
    matches(said(), what, cure)


def test_no_two_faults_say_the_same(machine):
    """Of those that leave the machine's other properties alone."""
    machine("")
    faulty = backend.import_cupy("cuda:0")
    everything = {*faulty.STARTS, *faulty.KERNEL, *faulty.PRODUCT, "wrong"}
    everything.remove("context")  # the memory is full, and CUDA says so instead of cuBLAS
    messages = set()
    for fault in everything:
        faulty.FAULT, faulty.DRIVER = fault, 0 if fault == "no-driver" else 11040
        faulty.Device.compute_capability = "61" if fault == "old-gpu" else "80"
        messages.add(said())
    assert len(messages) == len(everything)


def test_a_sound_machine(machine):
    machine("")
    cupy = backend.ready("cuda:0")
    cupy.FAULT = "no-driver"
    assert backend.ready("cuda:0") is cupy  # tried out once, then believed


def test_a_fault_is_not_remembered(machine):
    machine("no-headers")
    said()
    sys.modules["cupy"].FAULT = ""  # pip install 'cupy-cuda12x[ctk]'
    assert backend.ready("cuda:0") is sys.modules["cupy"]


def test_the_number_of_a_gpu(machine, monkeypatch):
    machine("")
    matches(said("cuda:1"), "there is no GPU 1, only 1, counted from 0; write 'cuda:0'$")
    monkeypatch.setenv("FAULT_DEVICES", "4")
    backend.ready("cuda:3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    matches(
        said("cuda:4"),
        r"no GPU 4, only 4, .* \(CUDA_VISIBLE_DEVICES is '0,1,2,3'\); write 'cuda:3' or less",
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Tensor([1.0], device="cuda"),
        lambda: Tensor([1.0]).to("cuda"),
        lambda: Tensor(np.ones(2), requires_grad=True).to("cuda:0"),
        lambda: tg.set_default_device("cuda"),
        lambda: nn.Linear(2, 1).to("cuda"),
        lambda: nn.Parameter(np.ones(2), device="cuda"),
        lambda: backend.synchronize("cuda:0"),
    ],
    ids=["Tensor", "to", "to with gradient", "default", "module", "parameter", "synchronize"],
)
def test_every_way_to_the_device_goes_through_the_check(ask, machine):
    machine("no-cublas")
    with pytest.raises(tg.DeviceError, match="cuBLAS"):
        ask()
    assert backend.default_device() == "cpu"


def test_the_variable_of_the_environment_too(machine, monkeypatch):
    machine("no-nvrtc", TINYGRAD_MHA_DEVICE="cuda")
    monkeypatch.setattr(backend, "_default_device", None)
    for ask in (lambda: Tensor([1.0]), lambda: nn.Linear(2, 1)):
        with pytest.raises(tg.DeviceError, match="NVRTC"):
            ask()
    assert Tensor(np.ones(2)).device == "cpu"  # an array stays where it is


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "doctor"])
@pytest.mark.parametrize("by", ["--device", "$TINYGRAD_MHA_DEVICE"])
def test_the_command_line_says_it_in_one_line(command, by, machine, monkeypatch, capsys, tmp_path):
    machine("no-headers")
    monkeypatch.setattr(backend, "_default_device", None)
    trained = a_classifier()
    trained.save(tmp_path / "model")
    (tmp_path / "data.csv").write_text("text,label\nred,x\ntwo,y\n")
    model, data = str(tmp_path / "model"), str(tmp_path / "data.csv")
    arguments = {
        "train": [data, "--out", str(tmp_path / "out")],
        "evaluate": [model, data],
        "predict": [model, data],
        "doctor": [],
    }[command]
    if by == "--device":
        arguments += ["--device", "cuda"]
    else:
        monkeypatch.setenv("TINYGRAD_MHA_DEVICE", "cuda")
    assert cli.main([command, *arguments]) == 2
    _, err = capsys.readouterr()
    matches(err, rf"^tinygrad-mha: {by.replace('$', '[$]')}: device 'cuda:0': CuPy finds no CUDA")
    assert err.endswith("; pip install 'cupy-cuda12x[ctk]'\n")
    assert len(err.splitlines()) == 1


def test_as_a_user_runs_it(tmp_path):
    """In a process of its own, with warnings as errors; this is what most people will see first."""
    environment = {**os.environ, "PYTHONPATH": str(FAULTY), "FAULT": "no-device"}
    environment |= {"PYTHONWARNINGS": "error", "TINYGRAD_MHA_DEVICE": "cuda"}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(
        [sys.executable, "-m", "tinygrad_mha", "doctor"],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    matches(done.stderr, r"^tinygrad-mha: \$TINYGRAD_MHA_DEVICE: device 'cuda:0': .*no GPU")
    assert len(done.stderr.splitlines()) == 1


def test_the_driver_is_asked_without_cupy(monkeypatch):
    import ctypes

    class Library:
        def __init__(self, name):
            self.name = name

        def cuDriverGetVersion(self, reference):
            reference._obj.value = 12040
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert device_check.driver_cuda() == 12040

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert device_check.driver_cuda() == 0


# --------------------------------------------------------------------- on the emulated machine

emulated = pytest.mark.skipif(
    not (real_cupy_wanted() and importlib.util.find_spec("emu_counters")),
    reason="needs CuPy on the emulator (TINYGRAD_MHA_REAL_CUPY=1)",
)
HIDE_HEADERS = "import cuda.pathfinder as p; p.find_nvidia_header_directory = lambda name: None; "


def on_the_emulator(code="", hide=None, folder=None, arguments=("doctor",), **environment):
    """The last line of standard error of ``tinygrad-mha doctor --device cuda``, and the status."""
    environment = {**os.environ, **environment}
    if hide is not None:  # a library is hidden by a folder that has links to all others
        own, *others = os.environ["LD_LIBRARY_PATH"].split(os.pathsep)
        for library in Path(own).iterdir():
            if hide not in library.name:
                (folder / library.name).symlink_to(library)
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([str(folder), *others])
    code += "import sys; from tinygrad_mha.models.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--device", "cuda"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.splitlines()[-1] if done.stderr else ""


@emulated
@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"EMU_FAULT": "no-driver"}, "no NVIDIA driver here.*ubuntu-drivers"),
        ({"EMU_FAULT": "old-driver"}, "knows CUDA 11.4, cupy-cuda12x needs CUDA 12; update"),
        ({"EMU_FAULT": "no-device"}, "driver, but no GPU is visible.*nvidia-smi -L"),
        ({"hide": "nvrtc"}, f"NVRTC, CUDA's compiler, is missing; {CTK}"),
        ({"hide": "libcublas"}, f"cuBLAS, .* is missing; {CTK}"),
        ({"code": HIDE_HEADERS}, f"no CUDA headers; {CTK}"),
    ],
    ids=["no driver", "old driver", "no GPU", "no NVRTC", "no cuBLAS", "no headers"],
)
def test_faults_on_the_emulator(how, what, tmp_path):
    status, err = on_the_emulator(folder=tmp_path, **how)
    assert status == 2
    matches(err, f"^tinygrad-mha: --device: device 'cuda:0': .*{what}")


@emulated
def test_a_full_gpu_on_the_emulator(tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{k}" for k in row) for row in rng.integers(0, 300, (400, 60))]
    rows = "".join(f"{text},{'ab'[n % 2]}\n" for n, text in enumerate(texts))
    (tmp_path / "data.csv").write_text("text,label\n" + rows)
    arguments = ["train", tmp_path / "data.csv", "--out", tmp_path / "m", "--batch-size", 64]
    arguments += ["--d-model", 64, "--layers", 1, "--epochs", 1, "--level", "word"]
    status, err = on_the_emulator(arguments=[str(a) for a in arguments], EMU_MEMORY_MB="12")
    assert status == 1
    matches(
        err,
        r"device 'cuda:0': out of memory in [\w ]+: [\d.]+ [kM]B asked for, [\d.]+ [kM]B of "
        r"12\.6 MB free; take a smaller batch or model: --batch-size 32 instead of 64$",
    )


# ---------------------------------------------------------------------------------- memory

FULL = "Out of memory allocating 1,500,000,000 bytes (allocated so far: 2,000 bytes)."
ASKED = r"device 'cuda:0': out of memory in {}: 1\.5 GB asked for, [\d.]+ GB of [\d.]+ GB free; "


def out_of_memory(cupy):
    error = cupy.cuda.memory.OutOfMemoryError
    return error(FULL) if error is strict_cupy.OutOfMemoryError else error(1500000000, 2000)


@pytest.fixture
def full(cupy, monkeypatch):
    """Makes an op of the registry find the memory of the GPU full."""

    def fill(name, way="forward"):
        def no_room(*_, **__):
            raise out_of_memory(cupy)

        without_kernel(monkeypatch, name)
        monkeypatch.setattr(REGISTRY[name], way, (no_room,) if way == "rules" else no_room)

    return fill


def test_a_full_gpu_in_an_op(full):
    x = Tensor([1.0], requires_grad=True).to("cuda")
    full("exp")
    with pytest.raises(backend.OutOfDeviceMemory, match=ASKED.format("exp")) as caught:
        x.exp()
    assert isinstance(caught.value, tg.DeviceError)
    assert isinstance(caught.value, MemoryError)  # for whoever retries with half the batch
    assert type(caught.value.__cause__).__name__ == "OutOfMemoryError"
    full("tanh", "rules")
    y = x.tanh().sum()
    with pytest.raises(tg.DeviceError, match=ASKED.format("the backward of tanh")):
        y.backward()


def test_a_full_gpu_on_the_way_there(cupy, monkeypatch):
    def no_room(_):
        raise out_of_memory(cupy)

    monkeypatch.setattr(cupy, "asarray", no_room)
    with pytest.raises(tg.DeviceError, match=r"device 'cuda:0': out of memory: 1\.5 GB asked for"):
        Tensor(np.ones(2), device="cuda")


def test_the_memory_of_the_host_is_another_matter(monkeypatch):
    error = MemoryError("Unable to allocate 1.0 EiB for an array with shape (…)")

    def no_room(*_, **__):
        raise error

    monkeypatch.setattr(REGISTRY["softmax"], "forward", no_room)
    with pytest.raises(MemoryError) as caught:
        tg.softmax(Tensor(np.ones(2)))
    assert caught.value is error
    assert backend.explained(error) is error


def test_errors_of_cuda_that_mean_a_full_gpu(machine):
    machine("")
    cupy = backend.ready("cuda:0")
    for error in (
        cupy.CUDARuntimeError(2, "cudaErrorMemoryAllocation"),
        cupy.CUBLASError("CUBLAS_STATUS_ALLOC_FAILED"),
    ):
        told = backend.explained(error)
        matches(str(told), r"^device 'cuda:0': out of memory: 1\.0 MB of 8\.0 GB free; take")
        assert told.__cause__ is error
    for error in (cupy.CUDARuntimeError(719, "x"), cupy.CUBLASError("x"), RuntimeError("x")):
        assert backend.explained(error) is error


@pytest.mark.parametrize(("batch", "half"), [(8, "--batch-size 4 instead of 8"), (1, "--max-len")])
@pytest.mark.parametrize("where", ["op", "elsewhere"])
def test_training_on_a_full_gpu_names_half_the_batch(
    batch, half, where, full, cupy, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(backend, "_default_device", None)
    rows = "".join(f"red {k},{'xy'[k % 2]}\n" for k in range(80))
    (tmp_path / "data.csv").write_text("text,label\n" + rows)
    if where == "op":
        full("lstm")
        full("lstm", "without_way_back")
    else:

        def no_room(*_, **__):
            raise out_of_memory(cupy)

        monkeypatch.setattr(optim.AdamW, "step", no_room)
    arguments = ["--out", str(tmp_path / "m"), "--d-model", "8", "--device", "cuda"]
    status = cli.main(
        ["train", str(tmp_path / "data.csv"), *arguments, "--batch-size", str(batch)]
    )  # fmt: skip
    assert status == 1
    err = capsys.readouterr().err.splitlines()[-1]
    matches(err, r"out of memory( in lstm)?: 1\.5 GB asked for, [\d.]+ GB of [\d.]+ GB free", half)
    assert not (tmp_path / "m").exists()


def test_answering_on_a_full_gpu(full, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(backend, "_default_device", None)
    a_classifier().save(tmp_path / "model")
    (tmp_path / "texts").write_text("red\ntwo\n")
    full("lstm", "without_way_back")
    arguments = [str(tmp_path / "model"), str(tmp_path / "texts"), "--device", "cuda"]
    assert cli.main(["predict", *arguments]) == 1
    matches(capsys.readouterr().err, ASKED.format("lstm") + ".*or --device cpu$")


# ------------------------------------------------------------------------------ one device

# ids, targets and places are read by the host, and sent along; nothing comes back by itself
SENT_ALONG = {
    ("embedding", "ids"), ("cross_entropy", "targets"), ("nll_loss", "targets"),
    ("take", "indices"), ("take_along_axis", "indices"),
}  # fmt: skip


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize(
    "name", [name for name, op in REGISTRY.items() if op.arity not in (0, 1)]
)  # fmt: skip
def test_every_op_refuses_two_devices(name, tracked, cupy):
    """Whichever of its arrays lies elsewhere: the error names both devices, and says .to()."""
    op = REGISTRY[name]
    args, params = op.sample(np.random.default_rng(0))
    arrays = [k for k, a in enumerate(args) if isinstance(a, np.ndarray)]
    for here, there in (("cpu", "cuda"), ("cuda", "cpu")):
        for odd in arrays if len(arrays) > 1 else ():
            xs = [
                Tensor(a, tracked and a.dtype.kind == "f", device=there if k == odd else here)
                if k in arrays
                else a
                for k, a in enumerate(args)
            ]
            on_host = {k for k in arrays if xs[k].device == "cpu"}
            if all((name, op.argument_name(k)) in SENT_ALONG for k in on_host):
                assert op(*xs, **params).device == "cuda:0"
                continue
            with pytest.raises(tg.DeviceError, match=rf"^{name}: .*\.to\('cuda:0'\)$") as caught:
                op(*xs, **params)
            matches(str(caught.value), "on cpu", "on cuda:0")


def test_comparisons_optimizers_and_clipping_refuse_two_devices(cupy):
    here, there = Tensor(np.ones(2)), Tensor(np.ones(2), device="cuda")
    for compare in (lambda: here < there, lambda: there == here, lambda: there > np.ones(2)):
        with pytest.raises(tg.DeviceError, match=r"on (cpu|cuda:0) and b .* on .*\.to\('cuda:0'\)"):
            compare()
    p, q = nn.Parameter(np.ones(2), device="cuda"), nn.Parameter(np.ones(2))
    p.grad, q.grad = here, here
    with pytest.raises(tg.DeviceError, match=r"on cuda:0, its gradient on cpu: .*\.to\(\)"):
        optim.SGD([p], 0.1).step()
    p.grad = there
    with pytest.raises(tg.DeviceError, match=r"are on cpu and cuda:0: .*\.to\('cuda:0'\)"):
        optim.clip_grad_norm([p, q], 1.0)
    with pytest.raises(
        ValueError, match=r"v is on cpu, the output on cuda:0: move it with .to\(\)"
    ):
        tg.vjp(tg.exp, there, np.ones(2))


def test_a_model_that_moves_takes_its_optimizer_along(cupy):
    layer = nn.Linear(2, 1)
    optimizer = optim.Adam(layer.parameters(), 0.1)

    def step(device):
        optimizer.zero_grad()
        layer(Tensor(np.ones((1, 2), np.float32), device=device)).sum().backward()
        optimizer.step()

    step("cpu")
    layer.to("cuda")
    with pytest.raises(tg.DeviceError, match=r"is on cuda:0, its \w+ on cpu: after model.to\(\)"):
        step("cuda")
    optimizer.load_state_dict(optimizer.state_dict())  # as it says
    step("cuda")


# ----------------------------------------------------------------------------- checkpoints


def a_classifier(device="cpu"):
    """One that was not trained."""
    tg.manual_seed(0)
    shape = {"d_model": 8, "h": 2, "num_layers": 1, "bidirectional": True, "dropout": 0.0}
    config = {**shape, "pooling": "mean", "level": "word", "max_len": 9, "training": {}}
    words = Vocabulary(["red", "two"])
    model = build_model(config, len(words), 2)
    model.to(device)
    return TrainedClassifier(model, words, ["x", "y"], config)


@pytest.mark.parametrize("loaded", ["argument", "default"])
@pytest.mark.parametrize("there", ["cpu", "cuda:0"])
@pytest.mark.parametrize("here", ["cpu", "cuda:0"])
def test_a_checkpoint_loads_on_either_device(here, there, loaded, cupy, monkeypatch, tmp_path):
    """Whatever it was saved on: it holds host arrays, and no device."""
    monkeypatch.setattr(backend, "_default_device", None)
    trained = a_classifier(here)
    trained.save(tmp_path / "model")
    if loaded == "argument":
        again = TrainedClassifier.load(tmp_path / "model", device=there)
    else:
        tg.set_default_device(there)
        again = TrainedClassifier.load(tmp_path / "model")
    for p, q in zip(trained.model.parameters(), again.model.parameters(), strict=True):
        assert (p.device, q.device) == (here, there)
        np.testing.assert_array_equal(p.numpy(), q.numpy())
    texts = ["red two two", "", "blue"]
    np.testing.assert_allclose(
        again.predict_proba(texts), trained.predict_proba(texts), rtol=1e-5
    )  # fmt: skip
    files = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    again.save(tmp_path / "model")
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == files
    assert not any(b"cuda" in text for text in files.values())


@pytest.mark.parametrize("there", ["cpu", "cuda:0"])
@pytest.mark.parametrize("here", ["cpu", "cuda:0"])
def test_training_goes_on_on_either_device(here, there, cupy, float64):
    """Weights and the optimizer's state, saved after a step on one device, loaded on another."""

    def machinery(device):
        tg.manual_seed(0)
        layer = nn.Linear(3, 2)
        layer.to(device)
        return layer, optim.Adam(layer.parameters(), 0.1)

    def step(layer, optimizer, device, x):
        optimizer.zero_grad()
        layer(Tensor(x, device=device)).sum().backward()
        optimizer.step()

    first, second = np.random.default_rng(0).standard_normal((2, 4, 3))
    layer, optimizer = machinery(here)
    step(layer, optimizer, here, first)
    saved = layer.state_dict(), optimizer.state_dict()
    assert all(type(x) is np.ndarray for part in saved for x in part.values())
    other, other_optimizer = machinery(there)
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    step(layer, optimizer, here, second)
    step(other, other_optimizer, there, second)
    for name, x in layer.state_dict().items():
        np.testing.assert_allclose(other.state_dict()[name], x, rtol=1e-12)
