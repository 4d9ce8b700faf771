"""The trial of a mutant: the certificate, and for who survives it the question whether it differs.

The tests are collected once, by pytest itself. Then each mutant gets a process of its own, forked
from that state: it swaps the code of one function and runs the tests of its op until one fails. So
a mutant can hang, exhaust its memory or ruin the engine, and the next one starts from a clean copy.

A mutant that passes everything is *equivalent* if its gradients are those of the original on 1,000
random inputs: plain and recorded, of order 1 and 2, in float64 and in float32. If not, it is a
*survivor*: a mistake that the certificate would not notice.
"""

import contextlib
import inspect
import itertools
import os
import re
import resource
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutate_mutants import Mutant, swap_code
from mutate_places import ENGINE

import tinygrad_mha as tg

HERE = Path(__file__).parent
CERTIFICATE = "test_ops.py"
# Tests by hand, for what no random input meets: kinks, infinities, rows of nothing.
BY_HAND = ["test_engine.py", "test_primitives.py", "test_fused_ops.py", "test_losses.py",
           "test_gelu.py", "test_einsum.py", "test_anomaly.py",
           "test_tiled_attention.py"]  # fmt: skip
ENGINE_OPS = ("mul", "concatenate", "softmax", "split")  # one of each kind, to try the engine on
EXAMPLES = 30  # of each test of the certificate, as in the default run
INPUTS = 1000  # that a survivor is compared on
MEMORY = 4 << 30


class Verdict(NamedTuple):
    """What became of a mutant."""

    id: str
    outcome: str  # killed, survived, equivalent or invalid
    by: str  # the test that noticed; for a survivor, the inputs on which it differs
    why: str  # the first line of its message
    seconds: float


# -------------------------------------------------------------------------------- the questions


class Loop:
    """Takes the place of pytest's loop over the tests: hands them to ``work`` instead."""

    def __init__(self, work: Callable[[list], None]) -> None:
        self.work = work

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        settings.register_profile(
            "mutation",
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],  # a failing example need not be made small
            suppress_health_check=list(HealthCheck),
        )
        settings.load_profile("mutation")
        if session.testsfailed:
            raise session.Interrupted("there are tests that cannot be collected")
        session.config.option.tbstyle = "native"  # pytest's own tracebacks take half a second
        self.work(session.items)
        return True


def with_tests(work: Callable[[list], None]) -> None:
    """Call ``work(items)`` with the tests as pytest collects them."""
    files = [str(HERE / name) for name in (CERTIFICATE, *BY_HAND)]
    quiet = ["-p", "no:cacheprovider", "-p", "no:terminal", "--capture=no", "--assert=plain"]
    status = pytest.main([*quiet, *files], plugins=[Loop(work)])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"the tests could not be collected: {status!r}")


class Questions(NamedTuple):
    """The tests, by what they may find out."""

    certificate: dict[str, list]  # those of the certificate that are about one op
    by_hand: list
    engine: list  # the rest of the tests by hand, among them graphs of 10,000 nodes and more

    @classmethod
    def sort(cls, items: list) -> "Questions":
        certificate: dict[str, list] = {}
        by_hand, engine = [], []
        for item in items:
            params = item.callspec.params if hasattr(item, "callspec") else {}
            if item.path.name == CERTIFICATE and "name" in params:
                certificate.setdefault(params["name"], []).append(item)
            elif re.search(r"\d0_000|torch", inspect.getsource(item.function)):
                engine.append(item)
            else:
                by_hand.append(item)
        return cls(certificate, by_hand, engine)

    def about(self, mutant: Mutant) -> list:
        """Those that may kill a mutant, the likely ones first."""
        if mutant.place.ops == (ENGINE,):
            in_turn = itertools.zip_longest(*(self.certificate[name] for name in ENGINE_OPS))
            tried = [item for row in in_turn for item in row if item]
            return tried[: len(ENGINE_OPS)] + self.by_hand + tried[len(ENGINE_OPS) :] + self.engine
        return [i for name in mutant.place.ops for i in self.certificate[name]] + self.by_hand


def failure(item: Any) -> str | None:
    """Run one test. What it says if it fails."""
    from _pytest.runner import runtestprotocol

    for report in runtestprotocol(item, log=False, nextitem=None):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            return crash.message if crash else str(report.longrepr)
    return None


# ----------------------------------------------------------------------------- values, gradients


def tensors(args: Any, dtype: Any) -> list:
    floats = [isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in args]
    return [tg.Tensor(a.astype(dtype), True) if f else a for a, f in zip(args, floats, strict=True)]


def parts(y: Any) -> list:
    return list(y) if isinstance(y, tuple) else [y]


def forward_values(op: Any, args: Any, params: dict) -> list[np.ndarray]:
    return [y.data for y in parts(op(*tensors(args, np.float64), **params))]


def same_forward(mutant: Mutant) -> bool:
    """Whether a mutant changes gradients only; one that changes values is no wrong gradient."""
    for op in (tg.REGISTRY[name] for name in mutant.place.ops if name != ENGINE):
        args, params = op.sample(np.random.default_rng(0))
        params = op.resolve(**(op.defaults | params)) if op.resolve else params
        want = forward_values(op, args, params)
        try:
            with mutant.installed():
                got = forward_values(op, args, params)
        except Exception:
            return False
        if not all(np.array_equal(a, b) for a, b in zip(got, want, strict=True)):
            return False
    return True


def combined(ys: list, rng: np.random.Generator) -> Any:
    """Σ <y, random numbers>: one number that depends on every element."""
    drawn = [np.asarray(rng.standard_normal(y.shape)).astype(y.dtype) for y in ys]
    return sum((y * tg.Tensor(v)).sum() for y, v in zip(ys, drawn, strict=True))


def all_gradients(op: Any, args: Any, params: dict, dtype: Any) -> list[np.ndarray]:
    """Every gradient there is, of order 1 (plain, recorded, by backward()) and of order 2."""
    xs = tensors(args, dtype)
    wanted = [x for x in xs if isinstance(x, tg.Tensor)]
    ys = [y for y in parts(op(*xs, **params)) if y.requires_grad]
    if not ys:
        return []
    found: list[Any] = []

    def keep(ds: list, of: list) -> list:
        """What does not arrive is zero: a gradient of zeros and no gradient are the same."""
        found.extend(x.data * 0 if d is None else d.data for d, x in zip(ds, of, strict=True))
        return [d for d in ds if d is not None and d.requires_grad]

    rng = np.random.default_rng(0)
    for y in ys:
        v = tg.Tensor(np.asarray(rng.standard_normal(y.shape)).astype(dtype), True)
        keep(tg.grad(y, wanted, v.data, allow_unused=True), wanted)
        y.backward(v.data, retain_graph=True)
        keep([x.grad for x in wanted], wanted)
        ds = keep(tg.grad(y, wanted, v, create_graph=True, allow_unused=True), wanted)
        total = combined([*ds, v * 0.0], rng)
        keep(tg.grad(total, [*wanted, v], allow_unused=True), [*wanted, v])
    return found


def twice(op: Any) -> Callable:
    """An op in the middle of a graph, each input used more than once: for the engine."""

    def graph(*xs: Any, **params: Any) -> tuple:
        less = [x * 0.75 if isinstance(x, tg.Tensor) else x for x in xs]
        mixed = [d if k % 2 else x for k, (x, d) in enumerate(zip(xs, less, strict=True))]
        ys, zs = parts(op(*xs, **params)), parts(op(*less, **params))
        return (*ys, *(y + z for y, z in zip(ys, zs, strict=True)), *parts(op(*mixed, **params)))

    return graph


def difference(mutant: Mutant, original: Any) -> str | None:
    """How the gradients of a mutant, which is installed, differ from the original's; or None."""
    from cases import CASES

    engine = mutant.place.ops == (ENGINE,)
    ops = sorted(CASES) if engine else mutant.place.ops
    cases = st.one_of([st.tuples(st.just(name), CASES[name]) for name in ops])
    function = mutant.place.function
    mutated = function.__code__

    def compare(case: tuple) -> None:
        name, (args, params) = case
        op = tg.REGISTRY[name]
        params = op.resolve(**(op.defaults | params)) if op.resolve else params
        f = twice(op) if engine else op
        for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 1e-3)):
            swap_code(function, original)
            want = all_gradients(f, args, params, dtype)
            swap_code(function, mutated)
            got = all_gradients(f, args, params, dtype)
            for a, b in zip(got, want, strict=True):
                assert a.dtype == b.dtype
                assert a.shape == b.shape
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    run = given(cases)(compare)
    run = settings(max_examples=INPUTS, phases=[Phase.generate], report_multiple_bugs=False)(run)
    try:
        run()
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return None


# --------------------------------------------------------------------------------- the processes


def stand_trial(mutant: Mutant, questions: list, tell: Callable) -> tuple[str, str, str]:
    """(outcome, by, why) of a mutant; ``tell`` says what is about to be done."""
    tell("the forward pass")
    if not same_forward(mutant):
        return "invalid", "the forward pass", "it gives other values"
    with mutant.installed() as original:
        for item in questions:
            tell(item.nodeid)
            message = failure(item)
            if message is not None:
                return "killed", item.nodeid, message
        tell(f"{INPUTS} inputs")
        message = difference(mutant, original)
    return "equivalent" if message is None else "survived", f"{INPUTS} inputs", message or ""


def control(item: Any, tell: Callable) -> tuple[str, str, str]:
    """What a test says of the original; if it fails here too, it says nothing of a mutant."""
    tell(item.nodeid)
    message = failure(item)
    return "healthy" if message is None else "sick", item.nodeid, message or ""


class Process:
    """Something that runs in a process of its own, and what was heard of it last."""

    def __init__(self, work: Callable[[Callable], tuple], patience: float, about: Any) -> None:
        self.about, self.patience, self.doing = about, patience, "start"
        self.begun = self.heard = time.monotonic()
        fork = get_context("fork")
        self.ear, mouth = fork.Pipe(duplex=False)
        self.process = fork.Process(target=self.run, args=(work, mouth))
        self.process.start()
        mouth.close()

    @staticmethod
    def run(work: Callable[[Callable], tuple], mouth: Connection) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        with open(os.devnull, "w") as nowhere:
            for stream in (1, 2):
                os.dup2(nowhere.fileno(), stream)
        try:
            mouth.send(work(mouth.send))
        except BaseException:
            mouth.send(("broken", "the tool itself", traceback.format_exc()))

    def listen(self) -> tuple[str, str, str] | None:
        """The outcome, if it is there."""
        try:
            while self.ear.poll():
                message = self.ear.recv()
                self.heard = time.monotonic()
                if isinstance(message, tuple):
                    return message
                self.doing = message
        except EOFError:
            return "killed", self.doing, "the process died"
        comparing = self.doing.endswith("inputs")
        if time.monotonic() - self.heard > self.patience * (10 if comparing else 1):
            return "undecided" if comparing else "killed", self.doing, "it hangs"
        return None

    def end(self) -> float:
        """Seconds from its beginning."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.ear.close()
        return time.monotonic() - self.begun


class Court:
    """Tries mutants, ``workers`` at a time, and calls ``heard`` with each verdict as it comes.

    ``patience`` is how many seconds one test may take before a mutant counts as hanging. A test
    that fails on the original as well is left out, and its name kept in ``sick``.
    """

    def __init__(self, workers: int, patience: float, heard: Callable[[Verdict], None]) -> None:
        self.workers, self.patience, self.heard = workers, patience, heard
        self.healthy: set[str] = set()
        self.sick: dict[str, str] = {}
        self.held: dict[str, list] = {}  # verdicts whose test has yet to prove that it is healthy
        self.waiting: list[Mutant] = []
        self.running: list[Process] = []

    def judge(self, mutants: list[Mutant]) -> None:
        self.waiting = list(reversed(mutants))
        with_tests(self.work)

    def work(self, items: list) -> None:
        self.items = {item.nodeid: item for item in items}
        self.questions = Questions.sort(items)
        try:
            self.go_through()
        finally:
            for p in self.running:
                p.end()

    def go_through(self) -> None:
        while self.waiting or self.running:
            while self.waiting and len(self.running) < self.workers:
                self.try_mutant(self.waiting.pop())
            wait([p.ear for p in self.running], timeout=1)
            for p in list(self.running):
                found = p.listen()
                if found is not None:
                    self.running.remove(p)
                    self.settle(p.about, *found, p.end())

    def try_mutant(self, mutant: Mutant, after: str = "") -> None:
        """From the beginning, or with the questions that come after one that was a mistake."""
        questions = self.questions.about(mutant)
        names = [item.nodeid for item in questions]
        questions = questions[names.index(after) + 1 if after else 0 :]
        questions = [item for item in questions if item.nodeid not in self.sick]
        self.start(partial(stand_trial, mutant, questions), mutant)

    def start(self, work: Callable[[Callable], tuple], about: Any) -> None:
        self.running.append(Process(work, self.patience, about))

    def settle(self, about: Any, outcome: str, by: str, why: str, seconds: float) -> None:
        if not isinstance(about, Mutant):  # a control has ended, well or (it hangs, too) badly
            held = self.held.pop(about.nodeid)
            if outcome == "healthy":
                self.healthy.add(about.nodeid)
            else:
                self.sick[about.nodeid] = why
            for mutant, *rest in held:
                self.settle(mutant, *rest)
        elif by in self.sick:
            self.try_mutant(about, after=by)
        elif outcome == "killed" and by not in self.healthy and by in self.items:
            if by not in self.held:
                self.start(partial(control, self.items[by]), self.items[by])
            self.held.setdefault(by, []).append((about, outcome, by, why, seconds))
        else:
            self.heard(Verdict(about.id, outcome, by.removeprefix("tests/"), why, seconds))
