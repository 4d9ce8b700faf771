"""A trained classifier: the model with everything that is needed to answer for a text.

On disk it is one folder: ``model.safetensors`` (weights), ``config.json``, ``vocab.json`` and
``metrics.json``. Nothing in it is code, and loading it runs none.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha.tensor import evaluating, inherit
from tinygrad_mha.threads import side_by_side

from . import checkpoint
from .errors import InputError, quoted
from .files import (
    TRAINED,
    beside,
    put_folder,
    read_bytes,
    read_json,
    read_object,
    write_parts,
)
from .readers import check_label
from .text import BucketedBatches, Vocabulary, tokenize
from .text_classifier import POOLINGS, TextClassifier

if TYPE_CHECKING:
    from .parallel import Workers

FORMAT = "tinygrad_mha text classifier"
VERSION = 1
FINE_TUNED = "tinygrad_mha fine-tuned encoder"  # see fine_tuned.py
FILES = ("model.safetensors", "config.json", "vocab.json", "metrics.json")
# what the folder of a fine-tuned encoder may hold besides
OTHERS = ("tokenizer.json", "adapter.safetensors")
SHAPE = {  # the part of config.json that rebuilds the model: key -> accepted type
    "d_model": int,
    "h": int,
    "num_layers": int,
    "bidirectional": bool,
    "dropout": float,
    "pooling": str,
}
TEXT = {"level": str, "max_len": int}
AT_ONCE = 16  # batches that are cut before they are computed: all of them may be too many
LIMIT = 10**6  # of any size in a configuration
LARGEST = 1e15  # weight: the product of two still fits float32


@dataclass
class TrainedClassifier:
    """A :class:`TextClassifier` with its vocabulary, its labels and its settings.

    Attributes
    ----------
    model : TextClassifier
    vocabulary : Vocabulary
    labels : list of str
        The class names in the order of the model's scores.
    config : dict
        What ``config.json`` holds beside the labels: the model's shape, how texts are cut into
        tokens, and the settings of the training.
    metrics : dict
        What was measured after training.
    """

    model: TextClassifier
    vocabulary: Vocabulary
    labels: list[str]
    config: dict[str, Any]
    metrics: dict[str, Any] = field(default_factory=dict)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, cut at ``max_len``."""
        level, most = self.config["level"], self.config["max_len"]
        return [self.vocabulary.encode(tokenize(text, level), most) for text in texts]

    def logits(
        self,
        encoded: Sequence[np.ndarray],
        batch_size: int = 128,
        *,
        workers: Workers | None = None,
    ) -> np.ndarray:
        """Scores (N, classes) for token ids, in evaluation mode, in the order given.

        The last bits of a matrix product depend on how many threads BLAS takes, and that depends on
        whether somebody trains in another thread. So here it always takes one, as in a training,
        and several batches are computed side by side.
        """
        answer = np.zeros((len(encoded), len(self.labels)), np.float32)
        batches = iter(BucketedBatches(encoded, None, batch_size, shuffle=False).epoch(0))

        def score(batch: tuple[Any, ...]) -> None:
            ids, lengths, _, rows = batch
            if workers is None:
                answer[rows] = self.scores(slice(None), ids, lengths)
            else:
                answer[rows] = np.concatenate(workers.run(self.scores, len(rows), ids, lengths))

        on_host = all(isinstance(p.data, np.ndarray) for p in self.model.parameters())
        with np.errstate(over="ignore", invalid="ignore"):
            if workers is None and on_host:
                while some := list(islice(batches, AT_ONCE)):
                    side_by_side(inherit(score), some)
            else:
                for batch in batches:
                    score(batch)
        if not np.isfinite(answer).all():
            raise RuntimeError("the scores are not finite; train again with a smaller --lr")
        return answer

    def scores(self, part: slice, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Scores of some rows of a padded batch, in evaluation mode."""
        with tg.no_grad(), evaluating():  # not eval(): another thread may be training the model
            return self.model(ids[part], lengths[part]).numpy()

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Class probabilities (N, classes), float32, each row summing to one.

        Raises
        ------
        InputError
            If ``texts`` is no list (or 1-d array, or Series) of strings.
        """
        return tg.softmax(self.logits(self.encode(strings(texts))))

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The most probable label of each text; raises as :meth:`predict_proba`."""
        return [self.labels[k] for k in self.logits(self.encode(strings(texts))).argmax(axis=1)]

    # -------------------------------------------------------------------------------- on disk

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the folder whole or not at all: it is made beside its place, then moved there."""
        check_replaceable(Path(folder), "")
        target = Path(os.path.realpath(folder))  # a link stays a link, to the new model
        new = beside(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            new.mkdir()
            for name, content in self.contents().items():
                write_parts([content], new / name, beside(new / name), Path(folder))
            put_folder(new, target)
        except OSError as e:  # a failed write does not say which file it was
            raise OSError(e.errno, e.strerror, str(folder)) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def contents(self) -> dict[str, bytes]:
        """The files of the folder."""
        from safetensors.numpy import save

        weights = {k: np.ascontiguousarray(v) for k, v in self.model.state_dict().items()}
        return {
            "model.safetensors": save(weights, metadata={"format": FORMAT}),
            "config.json": as_json(
                {"format": FORMAT, "version": VERSION, "labels": self.labels, **self.config}
            ),
            "vocab.json": as_json(self.vocabulary.to_json()),
            "metrics.json": as_json(self.metrics),
        }

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str | None = None) -> TrainedClassifier:
        """Read a folder that :meth:`save` wrote; InputError for any other."""
        place = Path(folder)
        if not place.is_dir():
            raise no_folder(place)
        if (place / checkpoint.NAME).exists() and not (place / "config.json").exists():
            raise unfinished(place)
        check_any(place)
        config = read_json(place / "config.json", TRAINED)
        if isinstance(config, dict) and config.get("format") == FINE_TUNED:
            from .fine_tuned import load

            return load(place, config, device)
        config = _config(config, place / "config.json")
        path = place / "vocab.json"
        vocabulary = Vocabulary.from_json(read_json(path, TRAINED), str(path))
        metrics = read_object(place / "metrics.json", TRAINED)
        weights = _weights(place / "model.safetensors")
        labels = config.pop("labels")
        try:
            _check_size(weights, config, len(vocabulary), len(labels))
            model = build_model(config, len(vocabulary), len(labels), str(place / "config.json"))
            model.load_state_dict(weights)
        except InputError:
            raise
        except (ValueError, KeyError) as e:
            raise InputError(
                f"the weights do not fit config.json ({_on_one_line(e)}); "
                "the folder is damaged: train again",
                source=str(place / "model.safetensors"),
            ) from None
        if device is not None:
            model.to(device)
        model.eval()
        return cls(model, vocabulary, labels, config, metrics)


def strings(texts: Iterable[str]) -> list[str]:
    """``texts`` as a list; an InputError for what is none of strings.

    A single string is refused: it would be taken for as many texts as it has characters.

    >>> strings(("a", "b"))
    ['a', 'b']
    >>> strings(["a", None])
    Traceback (most recent call last):
        ...
    tinygrad_mha.models.errors.InputError: texts[1] is None, not a string; fill in or drop what is \
missing, and turn other things into strings
    """
    wanted = "give a list, a 1-d array or a Series of strings"
    if isinstance(texts, str):
        raise InputError(f"texts is a single string; {wanted}, for one text [text]")
    dimensions = getattr(texts, "ndim", 1)
    if dimensions != 1:
        raise InputError(f"texts has {dimensions} dimensions; {wanted}: one column of a table")
    unordered = isinstance(texts, bytes | Mapping | set | frozenset)
    if unordered or not isinstance(texts, Iterable):
        raise InputError(f"texts is of type {type(texts).__name__}; {wanted}")
    found = list(texts)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(
                f"texts[{i}] is {quoted(repr(text))[1:-1]}, not a string; fill in or drop what is "
                "missing, and turn other things into strings"
            )
    return found


def no_folder(place: Path) -> InputError:
    """What is said of a path that is no folder."""
    if not place.exists():
        return InputError("no such model folder; train one: tinygrad-mha train", source=str(place))
    wanted = "give the folder that `tinygrad-mha train` wrote"
    if place.name in (*FILES, *OTHERS, *checkpoint.NAMES):
        wanted = f"give the folder that it is in: {shlex.quote(str(place.parent))}"
    return InputError(f"is a file, and a model is a folder; {wanted}", source=str(place))


def check_any(folder: Path) -> None:
    """Refuse a folder in which nothing of a model is: another one was meant.

    Where only some of its files are missing, the first of them is named when it is read.
    """
    if not any((folder / name).exists() for name in (*FILES, *OTHERS)):
        raise InputError(
            f"no model is in this folder: {', '.join(FILES)} are missing; "
            "give the folder that `tinygrad-mha train` wrote",
            source=str(folder),
        )


def unfinished(folder: Path) -> InputError:
    """What is said of a folder that waits for its model."""
    command = "train"
    saved = checkpoint.read(folder)
    if saved is not None and saved.words["options"].get("command") == "finetune":
        command = "finetune"
    return InputError(
        "the training of this model was interrupted; to go on: "
        f"tinygrad-mha {command} --resume {shlex.quote(str(folder))}",
        source=str(folder),
    )


def build_model(config: dict, vocab_size: int, classes: int, source: str = "") -> TextClassifier:
    """The untrained model that a configuration describes."""
    try:
        return TextClassifier(vocab_size, num_classes=classes, **{k: config[k] for k in SHAPE})
    except ValueError as e:
        raise InputError(str(e), source=source or None) from None


def check_replaceable(folder: Path, how: str = " with --out") -> None:
    """Refuse a place that cannot be written to, or that holds anything but a model of ours.

    ``how`` ends the remedy: the command line has an option for the place, Python an argument.
    """

    def refuse(problem: str, remedy: str = "choose another place") -> InputError:
        return InputError(f"it {problem}; {remedy}{how}", source=str(folder))

    try:
        if folder.is_dir():
            if stranger := _stranger(folder):
                raise refuse(f"holds {stranger}, so it is no model folder")
            if os.path.ismount(folder) or folder.samefile(os.curdir):
                problem = "is the current folder or a mount point, which nothing can replace"
                raise refuse(problem, "choose a folder inside it")
        elif folder.exists() or folder.is_symlink():
            raise refuse("exists and is no folder")
        # Only trying tells; to find out after hours of training would be too late.
        parent = Path(os.path.realpath(folder)).parent
        while not parent.exists():
            parent = parent.parent
        trial = beside(parent / folder.name)
        trial.mkdir()
        trial.rmdir()
    except OSError as e:
        raise refuse(f"cannot be written ({(e.strerror or str(e)).lower()})") from None


def _stranger(folder: Path) -> str | None:
    """What a folder holds that `save` did not write. A config.json may be anybody's."""
    for path in sorted(folder.iterdir()):
        if path.name not in (*FILES, *OTHERS, *checkpoint.NAMES) or not path.is_file():
            return quoted(path.name)
    config = folder / "config.json"
    if any(path.name not in checkpoint.NAMES for path in folder.iterdir()):
        text = config.read_bytes() if config.exists() else b""
        if FORMAT.encode() not in text and FINE_TUNED.encode() not in text:
            return "no config.json of ours"
    return None


def _on_one_line(e: Exception, most: int = 500) -> str:
    text = " ".join(str(e.args[0] if e.args else e).split())
    return text if len(text) <= most else f"{text[:most]}…"


def as_json(data: Any) -> bytes:
    """ASCII, so that a lone surrogate in a token survives; sorted, so that runs can be compared."""
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode("ascii")


def _config(config: Any, path: Path) -> dict[str, Any]:
    """A configuration, every value checked before anything is built from it."""

    def refuse(problem: str) -> InputError:
        return InputError(problem, source=str(path))

    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise refuse("this is no model of tinygrad_mha; give a folder that `train` wrote")
    check_keys(config, {**SHAPE, **TEXT}, str(path))
    if config["level"] not in ("word", "char") or config["pooling"] not in POOLINGS:
        raise refuse("'level' or 'pooling' has a value this program does not know; train again")
    if not 0 <= config["dropout"] <= 1:
        raise refuse("'dropout' is not between 0 and 1; train again")
    return {k: v for k, v in config.items() if k not in ("format", "version")}


def check_keys(config: dict[str, Any], kinds: dict[str, type], source: str) -> None:
    """Version, labels, and that every key is there, of its kind, and known."""

    def refuse(problem: str) -> InputError:
        return InputError(problem, source=source)

    version = config.get("version")
    if type(version) is not int or version != VERSION:
        shown = version if type(version) is int else quoted(version)
        raise refuse(
            f"format version {shown}, but this program reads version {VERSION}; "
            "install the version of tinygrad_mha that wrote it, or train again"
        )
    kinds = {**kinds, "labels": list, "training": dict}
    for key in sorted(config.keys() - {"format", "version", *kinds}):
        raise refuse(f"unknown key {quoted(key)}; remove it, or train again")
    for key, kind in kinds.items():
        if key not in config:
            raise refuse(f"the key {key!r} is missing; the file is damaged: train again")
        given = config[key]
        fits = isinstance(given, kind) or (kind is float and type(given) is int)
        if not fits or (kind is int and (type(given) is bool or not 0 < given <= LIMIT)):
            raise refuse(
                f"{key!r} is {quoted(given)}, which is no proper {kind.__name__}; train again"
            )
    labels = config["labels"]
    if not all(isinstance(name, str) for name in labels):
        raise refuse("'labels' should be strings; train again")
    if len(labels) < 2 or labels != sorted(set(labels)):
        raise refuse("'labels' should be two or more different names in order; train again")
    for name in labels:
        check_label(name, "in 'labels'", source, None)


def _weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, all of them finite floats."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        weights = load(read_bytes(path, TRAINED))
    except InputError:
        raise
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(
            f"is no valid safetensors file ({e}); the file is damaged: train again",
            source=str(path),
        ) from None
    for name, x in weights.items():
        problem = ""
        with np.errstate(invalid="ignore"):  # a signalling NaN, which a cast would warn of
            small = x.dtype.kind == "f" and bool(np.all(np.abs(x, dtype=np.float64) < LARGEST))
        if x.dtype.kind != "f":
            problem = f"{quoted(name)} is of type {x.dtype}, not float32"
        elif not small:  # nor is a NaN
            problem = f"{quoted(name)} holds numbers that are not finite"
        if problem:
            raise InputError(f"{problem}; the file is damaged: train again", source=str(path))
    return weights


def _check_size(
    weights: dict[str, np.ndarray], config: dict[str, Any], vocab_size: int, classes: int
) -> None:
    """Compare sizes before a model is built: a wrong number may ask for terabytes."""
    d = config["d_model"]
    wanted = vocab_size, d
    given = weights["embedding.weight"].shape
    if given != wanted:
        raise ValueError(f"the embedding is {given}, not {wanted}")
    layers = sum(name.startswith("rnn.weight_ih_l") for name in weights)
    layers //= 1 + config["bidirectional"]
    if layers != config["num_layers"]:
        raise ValueError(f"there are {layers} LSTM layers, not {config['num_layers']}")
    # four gates by d inputs and as many states as a direction has; four projections; the scores
    states = d // 2 if config["bidirectional"] else d
    lstm = 4 * d * (d + states)
    need, have = d * (classes + 4 * d) + layers * lstm, sum(x.size for x in weights.values())
    if need > have:
        raise ValueError(f"there are {have:,} numbers, and it takes more than {need:,}")
