"""What is fuzzed: every file that the program reads, and the two pages that it writes."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

import tinygrad_mha as tg
from tinygrad_mha import nn
from tinygrad_mha.models.multi_head_attention import MultiHeadAttention
from tinygrad_mha.models.readers import read_dataset
from tinygrad_mha.models.text import LEVELS, tokenize
from tinygrad_mha.models.trained import TrainedClassifier
from tinygrad_mha.models.transformer import TransformerBlock, TransformerEncoder
from tinygrad_mha.models.wordpiece import WordPiece

from . import checkpoints, folders, pages
from .verdict import Target

os.environ["HF_HUB_OFFLINE"] = "1"  # a `base` that looks like a name on the hub is not asked for
TEXT = 'Hello hello world [SEP] é東京 a_b "q" ' + "word " * 30


def all_targets() -> list[Target]:
    """Made when they are wanted: their folders lie in a temporary one until the process ends."""
    place = Path(tempfile.mkdtemp(prefix="tinygrad_mha-fuzz-", dir=memory()))
    PLACES.append(place)
    return [
        *data_files(place),
        *texts(),
        *model_folders(place),
        checkpoints.target(place),
        *torch_states(),
        *pages.targets(),
    ]


PLACES: list[Path] = []  # to be removed


def memory() -> str | None:
    """A folder in memory, where there is one: hundreds of thousands of files are written."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


# ------------------------------------------------------------------------------- files of texts

TABLE = b'text,label\r\na fine day,good\r\n"rain, and ""wind""\nall day",bad\r\n\r\n, bad \r\n'
OBJECTS = (
    b'{"text": "a fine day", "label": "good"}\n\n{"text": "rain", "label": 3, "more": [null]}\n'
)
LINES = "__label__good a fine day\n\n__label__bad rain é\n  __label__good\n".encode()
PLAIN = "# no label\n\ufefffine é\n".encode()


def data_files(place: Path) -> list[Target]:
    def reader(name: str) -> Callable[[bytes], object]:
        path = place / name

        def read(data: bytes) -> None:
            path.write_bytes(data)
            read_dataset(path, labelled=False)
            read_dataset(path)

        return read

    return [
        Target("csv", "lines", reader("d.csv"), [TABLE, b"\xef\xbb\xbf" + TABLE]),
        Target("tsv", "lines", reader("d.tsv"), [TABLE.replace(b",", b"\t")]),
        Target("jsonl", "jsonl", reader("d.jsonl"), [OBJECTS]),
        Target("fasttext", "lines", reader("d.ft"), [LINES, PLAIN]),
        Target("unnamed", "lines", reader("d"), [LINES, PLAIN]),
    ]


# ------------------------------------------------------------------------------------ tokenising


def texts() -> list[Target]:
    def cut(data: bytes) -> None:
        for text in (data.decode("utf-8", "surrogateescape"), data.decode("utf-16", "ignore")):
            for level in LEVELS:
                tokens = tokenize(text, level)
                assert all(tokens), "an empty token"
                json.dumps(tokens).encode("ascii")
                "".join(tokens).encode()  # no surrogate is left

    seeds = [TEXT.encode(), "e\u0301\u0301 Don’t 👩\u200d🚀 ไทย שלום\u202e".encode(), b"a\xff\xfeb"]
    return [Target("tokenise", "lines", cut, seeds)]


# --------------------------------------------------------------------------------- model folders


def model_folders(place: Path) -> list[Target]:
    found = []
    kinds = {
        "trained": (folders.trained, predict),
        "tuned": (folders.fine_tuned, predict),
        "lora": (folders.adapted, predict),
        "pretrained": (folders.pretrained, encode),
    }
    if not folders.TOKENIZERS:  # no text can be cut, but the weights are read
        kinds = {
            "trained": (folders.trained, predict),
            "pretrained": (folders.pretrained, TransformerEncoder.from_pretrained),
        }
    for kind, (make, use) in kinds.items():
        folder = make(place / kind)
        for name in sorted(path.name for path in folder.iterdir()):
            if kind == "lora" and name not in ("config.json", "adapter.safetensors"):
                continue  # as in the folder before
            if name in CUTTING and not folders.TOKENIZERS:
                continue
            one = folders.copy(folder, place / f"{kind}-{name}")
            if name in CUTTING:
                (one / "tokenizer.json").unlink()  # an older folder has none
            form = Path(name).suffix[1:]
            run = file_of(one / name, one, READS.get(name, use))
            found.append(Target(f"{kind}/{name}", form, run, [(folder / name).read_bytes()]))
    return found


def file_of(path: Path, folder: Path, use: Callable[[Path], object]) -> Callable[[bytes], object]:
    def run(data: bytes) -> None:
        path.unlink(missing_ok=True)  # never into a file that is mapped into memory
        path.write_bytes(data)
        use(folder)

    return run


def predict(folder: Path) -> None:
    trained = TrainedClassifier.load(folder)
    p = trained.predict_proba([TEXT])
    assert p.shape == (1, len(trained.labels))
    assert np.isfinite(p).all()


def encode(folder: Path) -> None:
    encoder = TransformerEncoder.from_pretrained(folder)
    ids = cut(folder, len(encoder.word_embeddings.weight), encoder.max_positions)
    # a published model's numbers are looked at when it is used: nonsense in, nonsense out
    with np.errstate(all="ignore"), tg.no_grad():
        encoder(ids[None])


def cut(folder: Path, rows: int = 20, most: int = 16) -> np.ndarray:
    """The ids of a text; an older folder has no tokenizer.json."""
    tokenizer = WordPiece.from_folder(folder)
    tokenizer.check_ids(rows)
    [ids] = tokenizer.encode([TEXT], most)
    assert len(ids) <= most
    assert ids.max(initial=0) < rows
    return ids


CUTTING = ("vocab.txt", "tokenizer_config.json")  # what is read if there is no tokenizer.json
# what is enough to read a file, where it is not the whole model
READS = {**dict.fromkeys(CUTTING, cut), "metrics.json": TrainedClassifier.load}

# --------------------------------------------------------------------------------- PyTorch's names


def torch_states() -> list[Target]:
    from safetensors.numpy import save

    tg.manual_seed(0)
    attention, block = MultiHeadAttention(2, 8, 4, 4), TransformerBlock(8, 2, 12)
    rnn = nn.LSTM(4, 3, num_layers=2, bidirectional=True)
    d = np.ones((8, 8), np.float32)
    theirs = {
        "in_proj_weight": np.ones((24, 8), np.float32), "in_proj_bias": np.ones(24, np.float32),
        "out_proj.weight": d, "out_proj.bias": d[0],
    }  # fmt: skip
    layer = {f"self_attn.{name}": x for name, x in theirs.items()}
    layer |= {f"norm{k}.{name}": d[0] for k in (1, 2) for name in ("weight", "bias")}
    layer |= {"linear1.weight": np.ones((12, 8), np.float32), "linear1.bias": np.ones(12)}
    layer |= {"linear2.weight": np.ones((8, 12), np.float32), "linear2.bias": d[0]}

    def run(data: bytes) -> None:
        state = load(data)
        for module in (attention, block, rnn):
            with np.errstate(over="ignore"):  # 1e300 as a float32
                module.load_state_dict(state, strict=False)

    # load() is the library's; ours is a ValueError that names everything, on several lines
    refusals = (SafetensorError, ValueError, KeyError, TypeError, AttributeError)
    seeds = [save(theirs), save(layer), save(rnn.state_dict())]
    return [Target("torch_weights", "safetensors", run, seeds, refusals)]
