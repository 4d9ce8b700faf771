"""A language model of characters, from nothing: last names by language, or any text file.

    python bench/character_model.py                  # needs .[demo]; about four minutes
    python bench/character_model.py --text FILE      # plain text, UTF-8
    python bench/character_model.py --epochs 10 --layers 3 --d-model 128 --seed 1

Prints the bits a character on held-out text beside those of n-grams, what the model writes, and
what the cache of keys and values saves. A name begins with a token for its language and ends with
one for its end, which counts as a character; the n-grams know both as well. Names are cut as for
`tinygrad-mha train`: the best epoch, and the discounts of the n-grams, are those that are best on
the part that stops early, and what is printed is measured on the test part.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import spread, table

import tinygrad_mha as tg
from tinygrad_mha import optim
from tinygrad_mha.models import LanguageModel
from tinygrad_mha.models.datasets import load_names
from tinygrad_mha.models.parallel import Workers, cores, one_blas_thread
from tinygrad_mha.models.text import BucketedBatches
from tinygrad_mha.models.train import split
from tinygrad_mha.random import mask_stream

# ------------------------------------------------------------------------------------- the data


@dataclass
class Corpus:
    """Texts as tuples of ids: those that train, those that choose, those that measure."""

    fit: list[tuple[int, ...]]
    stop: list[tuple[int, ...]]
    test: list[tuple[int, ...]]
    symbols: list[str]  # what each id stands for
    languages: int = 0  # how many of them, at the beginning, are languages; then comes the end

    def written(self, ids: Sequence[int]) -> str:
        return "".join(self.symbols[i] for i in ids)


def names() -> Corpus:
    """(language, letter, …, letter, end)"""
    cut = split(load_names())
    parts = cut.fit, cut.stop, cut.test
    languages = sorted(set(cut.fit.labels))
    letters = sorted({letter for part in parts for text in part.texts for letter in text})
    symbols = [*languages, "\n", *letters]
    code = {symbol: k for k, symbol in enumerate(symbols)}
    fit, stop, test = (
        [
            (code[language], *map(code.__getitem__, text), code["\n"])
            for text, language in zip(part.texts, part.labels, strict=True)
        ]
        for part in parts
    )
    return Corpus(fit, stop, test, symbols, len(languages))


def blocks(file: str, size: int) -> Corpus:
    """A text in stretches of ``size`` characters to foretell; a tenth each chooses and measures."""
    text = Path(file).read_text(encoding="utf-8")
    symbols = sorted(set(text))
    code = {symbol: k for k, symbol in enumerate(symbols)}
    ids = tuple(map(code.__getitem__, text))
    fit, stop, test = (
        [ids[k : min(k + size + 1, b)] for k in range(a, b - 1, size)]
        for a, b in pairwise([0, len(ids) * 8 // 10, len(ids) * 9 // 10, len(ids)])
    )
    return Corpus(fit, stop, test, symbols)


def joined(parts: list) -> list:
    """Blocks, each of which begins with the end of the one before, as one text again."""
    return [tuple(chain(parts[0], *(part[1:] for part in parts[1:])))]


# ---------------------------------------------------------------------------------- the n-grams


class NGrams:
    """Interpolated Kneser-Ney: p(c | h) = (max(n(hc) - D, 0) + D · kinds(h) · p(c | h')) / n(h)

    h' is the next shorter history. For that one it counts how many longer ones c was *new* to, not
    how often it was there. A name's histories are its last letters with the language, then (the
    better order, by far) its last letters without it. Source: Chen, Goodman, An Empirical Study of
    Smoothing Techniques for Language Modeling, §2.7 (Kneser-Ney) and §3 (interpolated).
    """

    def __init__(self, texts: list, order: int, vocabulary: int, languages: bool) -> None:
        self.order, self.vocabulary, self.languages = order, vocabulary, languages
        self.counts: dict[tuple, Counter] = defaultdict(Counter)
        for text in texts:
            for t in range(1, len(text)):
                for history in self.histories(text, t):
                    self.counts[history][text[t]] += 1
                    if self.counts[history][text[t]] > 1:
                        break
        self.totals = {history: seen.total() for history, seen in self.counts.items()}

    def histories(self, text: tuple, t: int) -> Iterator[tuple]:
        """What comes before place t, from what says most to what says nothing."""
        first = 1 if self.languages else 0
        for k in range(self.order - 1, 0, -1) if self.languages else ():
            yield text[0], k, text[max(first, t - k) : t]
        for k in range(self.order - 1 - first, -1, -1):
            yield k, text[max(first, t - k) : t]

    def bits(self, texts: list, discount: float) -> float:
        """A token, on average."""
        total = 0.0
        for text in texts:
            for t in range(1, len(text)):
                p = 1 / self.vocabulary
                for history in reversed(list(self.histories(text, t))):
                    if seen := self.counts.get(history):
                        left = max(seen[text[t]] - discount, 0)
                        p = (left + discount * len(seen) * p) / self.totals[history]
                total -= math.log2(p)
        return total / sum(len(text) - 1 for text in texts)


def ngram_lines(corpus: Corpus) -> list[tuple[str, str]]:
    """A line of the table for each order, with the discount that suits the part that chooses."""
    parts = corpus.fit, corpus.stop, corpus.test
    fit, stop, test = parts if corpus.languages else map(joined, parts)
    lines = []
    for order in (3, 4, 5):
        grams = NGrams(fit, order, len(corpus.symbols), corpus.languages > 0)
        discount = min((0.6, 0.7, 0.8, 0.9), key=lambda d: grams.bits(stop, d))
        lines.append((f"{order}-grams", f"{grams.bits(test, discount):.3f}"))
    return lines


# ------------------------------------------------------------------------------------- training


class Training:
    """A model and what its training depends on."""

    def __init__(self, corpus: Corpus, model: LanguageModel, options: argparse.Namespace) -> None:
        self.corpus, self.model, self.options = corpus, model, options
        self.parameters = model.parameters()
        texts = [np.array(text) for text in corpus.fit]
        self.batches = BucketedBatches(texts, None, options.batch_size, seed=options.seed)
        decay = {True: options.weight_decay, False: 0.0}  # of matrices; not of biases and norms
        groups = [
            {"params": [p for p in self.parameters if (p.ndim > 1) is kind], "weight_decay": d}
            for kind, d in decay.items()
        ]
        self.optimizer = optim.AdamW(groups, lr=options.lr)
        total = len(self.batches) * options.epochs
        self.schedule = optim.WarmupCosine(self.optimizer, warmup=total // 20, total=total)
        self.step = 0

    def loss_of(self, part: slice, ids: Any, lengths: Any, scale: float, step: int) -> Any:
        """What one shard adds to the loss of the batch, and its value."""
        self.model.train()
        with mask_stream(self.options.seed, step, part.start):
            loss = self.model.loss(ids[part], lengths[part], reduction="sum") * scale
        return loss, loss.item()

    def nats(self, part: slice, ids: Any, lengths: Any) -> float:
        """How surprised the model is by some rows."""
        self.model.eval()
        with tg.no_grad():
            return self.model.loss(ids[part], lengths[part], reduction="sum").item()

    def epoch(self, k: int, workers: Workers) -> float:
        """Bits a token, as they were on the way."""
        nats, tokens = 0.0, 0
        for ids, lengths, _, rows in self.batches.epoch(k):
            count = int(lengths.sum()) - len(rows)
            said = workers.gradients(self.loss_of, len(rows), ids, lengths, 1 / count, self.step)
            norm = optim.clip_grad_norm(self.parameters, 1.0)
            self.optimizer.step(workers, only_if=norm)
            self.schedule.step()
            self.step += 1
            nats, tokens = nats + sum(said) * count, tokens + count
        return nats / tokens / math.log(2)

    def bits(self, texts: list, workers: Workers) -> float:
        """A token, on average."""
        batches = BucketedBatches([np.array(t) for t in texts], None, 256, shuffle=False)
        nats = sum(
            sum(workers.run(self.nats, len(rows), ids, lengths))
            for ids, lengths, _, rows in batches.epoch()
        )
        return nats / sum(len(text) - 1 for text in texts) / math.log(2)

    def run(self) -> tuple[float, int, float]:
        """Train and keep the best weights: their bits on the test part, their epoch, tokens/s."""
        best, best_bits, best_epoch, busy = self.model.state_dict(), math.inf, 0, 0.0
        jobs = self.loss_of, self.nats
        with Workers(self.options.workers, jobs, self.parameters) as workers:
            for k in range(self.options.epochs):
                began = time.perf_counter()
                trained = self.epoch(k, workers)
                busy += time.perf_counter() - began
                bits = self.bits(self.corpus.stop, workers)
                print(
                    f"epoch {k + 1}/{self.options.epochs}: {trained:.3f} bits, {bits:.3f} held out",
                    file=sys.stderr,
                    flush=True,
                )
                if bits < best_bits:
                    best, best_bits, best_epoch = self.model.state_dict(), bits, k + 1
            self.model.load_state_dict(best)
            result = self.bits(self.corpus.test, workers)
        tokens = sum(len(text) - 1 for text in self.corpus.fit) * self.options.epochs
        return result, best_epoch, tokens / busy


# ------------------------------------------------------------------------------------ generation


def show_names(corpus: Corpus, model: LanguageModel, options: argparse.Namespace) -> None:
    """Some names of each language, and how many of all are new."""
    end, written = corpus.languages, []
    for k, language in enumerate(corpus.symbols[:end]):
        prompts, room = np.full((100, 1), k), model.max_positions - 1
        how = {"temperature": options.temperature, "top_p": options.top_p, "stop": end}
        texts = model.generate(prompts, room, seed=options.seed + k, **how)
        texts = [tuple(takewhile(lambda i: i != end, text[1:])) for text in texts.tolist()]
        print(f"{language}  {', '.join(map(corpus.written, texts[:6]))}")
        written += texts
    known = {text[1:-1] for text in corpus.fit}
    real = {text[1:-1] for text in corpus.stop + corpus.test}
    new = [text for text in written if text not in known]
    print(
        f"{len(written):,} names, {len(set(written)):,} different ones; {len(new):,} are not in "
        f"the training data, and {sum(text in real for text in new)} of these are among the names "
        "that were held out"
    )


def show_text(corpus: Corpus, model: LanguageModel, options: argparse.Namespace) -> None:
    """How the model goes on after the beginning of the test part."""
    room = model.max_positions
    prompt = corpus.test[0][: room // 4]
    how = {"temperature": options.temperature, "top_p": options.top_p}
    text = model.generate(prompt, room - len(prompt), seed=options.seed, **how)
    print(f"{corpus.written(prompt)} | {corpus.written(text[len(prompt) :])}")


def show_speed(model: LanguageModel, tokens: int, rounds: int = 5) -> None:
    """One text with and without the cache, in turn."""
    said: dict[bool, list[float]] = {True: [], False: []}
    with one_blas_thread():
        for k in range(2 * rounds):
            use_cache = k % 2 == 0
            began = time.perf_counter()
            model.generate([0], tokens, seed=0, use_cache=use_cache)
            said[use_cache].append(time.perf_counter() - began)
    ratios = spread([b / a for a, b in zip(said[True], said[False], strict=True)])
    cached, plain = (tokens / statistics.median(said[use_cache]) for use_cache in (True, False))
    print(
        f"one text of {tokens} characters: {cached:,.0f} characters/s with the cache, "
        f"{plain:,.0f} without, ratio {ratios}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", metavar="FILE", help="a text file instead of the names")
    parser.add_argument("--block", type=int, default=128, help="characters of a text seen at once")
    parser.add_argument("--d-model", type=int, default=96)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch-size", type=int, help="default: 32 names, or 16 blocks")
    parser.add_argument("--epochs", type=int, help="default: 30 for names, 10 for a text")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=cores())
    options = parser.parse_args()
    options.batch_size = options.batch_size or (16 if options.text else 32)
    options.epochs = options.epochs or (10 if options.text else 30)
    corpus = blocks(options.text, options.block) if options.text else names()

    def new_model(longest: int) -> LanguageModel:
        tg.manual_seed(options.seed)
        return LanguageModel(
            len(corpus.symbols), options.d_model, options.heads, options.layers,
            max_positions=longest, dropout=options.dropout,
        )  # fmt: skip

    model = new_model(max(map(len, chain(corpus.fit, corpus.stop, corpus.test))))
    size = sum(p.size for p in model.parameters())
    counts = [sum(len(text) - 1 for text in part) for part in (corpus.fit, corpus.test)]
    print(
        f"{len(corpus.symbols)} symbols; {counts[0]:,} characters train, {counts[1]:,} measure; "
        f"{size:,} parameters"
    )
    began = time.perf_counter()
    bits, epoch, speed = Training(corpus, model, options).run()
    seconds = time.perf_counter() - began
    said = f"{options.epochs} epochs in {seconds:.0f} s, {speed:,.0f} characters/s"
    print(f"{said}; the best was epoch {epoch}\n")
    lines = [*ngram_lines(corpus), ("LanguageModel", f"{bits:.3f}")]
    print(table(["held-out text", "bits a character"], lines), end="\n\n")
    (show_text if options.text else show_names)(corpus, model, options)
    print()
    for tokens in (64, 256):
        show_speed(new_model(tokens + 1), tokens)


if __name__ == "__main__":
    main()
