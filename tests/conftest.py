"""What all tests share: how many examples Hypothesis draws, ``--long``, and a GPU or its double."""

import contextlib
import importlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent / "cuda"))  # for strict_cupy
sys.path.insert(
    0, str(Path(__file__).parents[1] / "bench")
)  # what is counted there is asserted here
import figures
import strict_cupy
from browser import CHROMIUM, Browser

import tinygrad_mha as tg
from tinygrad_mha import tensor

# a module named cupy, which is for some child processes only; one that needs atheris
collect_ignore = ["cuda/faulty", "fuzz/atheris_child.py"]

# The first two draw the same cases every time: a red run is red for everybody. The last explores.
common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", max_examples=30, derandomize=True, **common)
settings.register_profile("ci", max_examples=100, derandomize=True, **common)
settings.register_profile("long", max_examples=400, **common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--browser", action="store_true", help="also look at pages in Chromium")


def pytest_configure():
    """Heed Ctrl-C even where a shell has started the tests in the background: it is tested."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    looks = config.getoption("--browser") or config.getoption("--long")
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
            if not looks:
                item.add_marker(pytest.mark.skip(reason="looks at a page: run with --browser"))
        if "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: run with --long"))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several processes
        session.config.workeroutput["figures"] = json.dumps(figures.figures)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node):
    figures.merge(json.loads(getattr(node, "workeroutput", {}).get("figures", "{}")))


def pytest_terminal_summary(terminalreporter):
    for line in figures.lines():
        terminalreporter.write_line(line)


def real_cupy_wanted():
    """Whether the tests of the device should run on CuPy itself, not on the double."""
    return bool(os.environ.get("TINYGRAD_MHA_REAL_CUPY")) and bool(
        importlib.util.find_spec("cupy")
    )  # fmt: skip


def without_kernel(monkeypatch, name):
    """For one test, an op computes by its own forward on the GPU too: a fault can be put there."""
    kernel_of = tensor.kernel_of
    monkeypatch.setattr(tensor, "kernel_of", lambda op: None if op.name == name else kernel_of(op))


@pytest.fixture
def cupy():
    """The module ``cupy``: the strict double, for this test only, or the real one if asked for."""
    if real_cupy_wanted():
        from tinygrad_mha.kernels import launch

        launch.CHECKED = True
        yield tg.backend.ready("cuda:0")
    else:
        with strict_cupy.installed() as double:
            assert tg.backend.ready("cuda:0") is double  # the first time waits for the device
            yield double


@pytest.fixture
def forbid_sync(cupy):
    """A context manager inside which the host must not wait for the GPU."""
    if cupy is strict_cupy.cupy:
        return strict_cupy.forbid_sync
    try:
        import emu_counters  # the emulator counts what a GPU would only do more slowly
    except ImportError:
        return contextlib.nullcontext

    @contextlib.contextmanager
    def counted():
        with emu_counters.count() as c:
            yield
        assert c.d2h == 0, f"copies to the host: {c}"

    return counted


@pytest.fixture
def float64():
    """New Tensors and modules in float64, for one test."""
    tg.set_default_dtype(np.float64)
    yield
    tg.set_default_dtype(np.float32)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium, if there is one."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def signal_handlers():
    """A training that is told to stop would leave all signals ignored."""
    from tinygrad_mha.models import signals

    before = [(n, signal.getsignal(n)) for n in signals.SIGNALS]
    yield
    for n, handler in before:
        signal.signal(n, handler)
