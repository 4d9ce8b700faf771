"""How a pretrained encoder wants texts cut: by the library tokenizers, from the model's file."""

from __future__ import annotations

import json as json_module
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, quoted
from .files import LARGEST_JSON, PRETRAINED, Kind, read_bytes, read_object
from .tokenizer_file import problem_of

REMEDY = "pip install 'tinygrad_mha[hub]'"


class WordPiece:
    """The tokenizer of a pretrained model: a text becomes ``[CLS]``, pieces of words, ``[SEP]``.

    Padding and truncation that its file asks for are switched off: batches are padded, and masked,
    by us.

    Parameters
    ----------
    json : str
        What ``tokenizer.json`` holds.
    source : str
        The file, for messages.
    """

    def __init__(self, json: str, source: str = "tokenizer.json") -> None:
        self.json, self.source = json, source
        self.tokenizer = _of_json(json, source)
        self.cut = 0  # texts that encode() found longer than allowed
        self._one_at_a_time = threading.Lock()

    @classmethod
    def from_folder(cls, folder: Path, kind: Kind = PRETRAINED) -> WordPiece:
        """From ``tokenizer.json``, or else from the ``vocab.txt`` of an older model."""
        path = folder / "tokenizer.json"
        if not path.exists() and (folder / "vocab.txt").exists():
            return cls(_from_vocabulary(folder), str(folder / "vocab.txt"))
        text = read_bytes(path, kind, LARGEST_JSON)
        return cls(text.decode("utf-8", "replace"), str(path))

    def __len__(self) -> int:
        """How many pieces it knows."""
        return self.tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str], max_len: int) -> list[np.ndarray]:
        """Ids of each text, int32; at most ``max_len``, ``[CLS]`` and ``[SEP]`` among them.

        A longer text loses its end; ``cut`` counts such texts.
        """
        with self._one_at_a_time:  # max_len is a state of the tokenizer
            return self._encode(texts, max_len)

    def _encode(self, texts: Sequence[str], max_len: int) -> list[np.ndarray]:
        self.tokenizer.enable_truncation(max_len)
        ids = []
        # one by one: encode_batch starts threads, and who has threads cannot fork worker processes
        for text in texts:
            # a lone surrogate has no UTF-8, which the library works in
            text = text.encode("utf-8", "replace").decode("utf-8")
            with damaged(self.source):
                found = self.tokenizer.encode(text)
            self.cut += bool(found.overflowing)
            ids.append(np.array(found.ids[:max_len], np.int32))
        return ids

    def check_ids(self, rows: int) -> None:
        """Refuse a tokenizer whose ids are more than the rows of the embedding."""
        with damaged(self.source):
            beside = self.tokenizer.encode("").ids  # what stands beside every text
        largest = max([*self.tokenizer.get_vocab().values(), *beside], default=0)
        if largest >= rows:
            raise InputError(
                f"it gives the id {largest}, and the model has {rows}; they belong to "
                "different models",
                source=self.source,
            )

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The texts of ids, as the vocabulary has them: ``##`` begins a piece inside a word."""
        return [self.tokenizer.id_to_token(int(i)) for i in ids]

    def __getstate__(self) -> dict[str, Any]:
        return {"json": self.json, "source": self.source}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def library() -> Any:
    """The tokenizers library."""
    try:
        import tokenizers
    except ImportError:
        raise InputError(f"a pretrained model needs the package tokenizers: {REMEDY}") from None
    return tokenizers


@contextmanager
def damaged(source: str) -> Iterator[None]:
    """What the library says of a file. It raises plain Exceptions, and panics, which are none."""
    try:
        yield
    except BaseException as e:
        if not isinstance(e, Exception) and type(e).__name__ != "PanicException":
            raise
        raise no_tokenizer(quoted(e), source) from None


def no_tokenizer(problem: str, source: str) -> InputError:
    return InputError(
        f"is no tokenizer ({problem}); the file is damaged: fetch it again", source=source
    )


def _of_json(json: str, source: str) -> Any:
    tokenizers = library()
    with damaged(source):
        file = json_module.loads(json)
    if problem := problem_of(file):
        raise no_tokenizer(problem, source)
    with damaged(source):
        # not the file's own text, in which a key may stand twice: what was looked at
        tokenizer = tokenizers.Tokenizer.from_str(json_module.dumps(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _from_vocabulary(folder: Path) -> str:
    """A tokenizer of BERT's kind from a list of its pieces, one a line."""
    tokenizers = library()
    path = folder / "vocab.txt"
    lines = read_bytes(path, PRETRAINED, LARGEST_JSON).decode("utf-8", "replace").splitlines()
    number = {piece: k for k, piece in enumerate(lines)}
    lower = True
    if (folder / "tokenizer_config.json").exists():
        told = read_object(folder / "tokenizer_config.json", PRETRAINED).get("do_lower_case", True)
        lower = told is not False
    if missing := {"[CLS]", "[SEP]", "[UNK]"} - number.keys():
        raise InputError(
            f"{', '.join(sorted(missing))} is missing; this is no vocabulary of BERT's kind",
            source=str(path),
        )
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(number, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(piece, number[piece]) for piece in ("[CLS]", "[SEP]")],
    )
    return tokenizer.to_str()
