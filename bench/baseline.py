"""The bar to beat: TF-IDF of n-grams and logistic regression, on the splits the models get.

    python bench/baseline.py

prints accuracy and macro F1 on the held-out fifth of both built-in sets, for seeds 0, 1 and 2.
Whatever is chosen (case, regularisation) is chosen on a tenth of the training part; the test part
is looked at once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import Pipeline, make_pipeline

from tinygrad_mha.models.datasets import BUILTIN, default_level
from tinygrad_mha.models.text import remove_duplicates, stratified_split

SEEDS = (0, 1, 2)
INVERSE_PENALTIES = (1.0, 3.0, 10.0)
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1


def tfidf_baseline(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    test_texts: Sequence[str],
    test_labels: Sequence[str],
    level: str,
) -> dict[str, float]:
    """Fit the baseline on the training part and measure it on the test part.

    Parameters
    ----------
    train_texts, train_labels, test_texts, test_labels : sequence of str
    level : {"char", "word"}
        Character 1-3-grams or word 1-2-grams.

    Returns
    -------
    dict
        `accuracy` and `macro_f1` on the test part; `lowercase` (0 or 1) and `C`, the choices.
    """
    lowercase, penalty = best_choice(train_texts, train_labels, level)
    model = pipeline(level, lowercase, penalty).fit(train_texts, train_labels)
    predicted = model.predict(test_texts)
    return {
        "accuracy": accuracy_score(test_labels, predicted),
        "macro_f1": f1_score(test_labels, predicted, average="macro"),
        "lowercase": float(lowercase),
        "C": penalty,
    }


def pipeline(level: str, lowercase: bool, penalty: float) -> Pipeline:
    """The features of a level, then the classifier."""
    ngrams: dict[str, object] = {"analyzer": "char", "ngram_range": (1, 3)}
    if level == "word":
        # one-letter words count too: "i" and "u" say something in a tweet
        ngrams = {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"}
    return make_pipeline(
        TfidfVectorizer(lowercase=lowercase, sublinear_tf=True, **ngrams),
        LogisticRegression(C=penalty, max_iter=2000),
    )


def best_choice(texts: Sequence[str], labels: Sequence[str], level: str) -> tuple[bool, float]:
    """The case and the penalty with the best accuracy on a tenth of the training part."""
    fit, validate = stratified_split(texts, labels, VALIDATION_FRACTION, seed=0)
    # Lower case for words in any case: a sentence's first word is not another word.
    cases = (False, True) if level == "char" else (True,)
    scores = {}
    for lowercase, penalty in itertools.product(cases, INVERSE_PENALTIES):
        model = pipeline(level, lowercase, penalty).fit(take(texts, fit), take(labels, fit))
        scores[lowercase, penalty] = model.score(take(texts, validate), take(labels, validate))
    return max(scores, key=lambda choice: scores[choice])


def take(items: Sequence[str], rows: np.ndarray) -> list[str]:
    return [items[i] for i in rows]


def main() -> None:
    print("data      seed  accuracy  macro F1  lower     C  seconds")
    for name, load in BUILTIN.items():
        data = remove_duplicates(load())
        results = []
        for seed in SEEDS:
            start = time.perf_counter()
            train, test = stratified_split(data.texts, data.labels, TEST_FRACTION, seed)
            result = tfidf_baseline(
                take(data.texts, train),
                take(data.labels, train),
                take(data.texts, test),
                take(data.labels, test),
                default_level(name),
            )
            results.append(result)
            print(
                f"{name:8}{seed:6}{result['accuracy']:10.4f}{result['macro_f1']:10.4f}"
                f"{result['lowercase']:7.0f}{result['C']:6.0f}{time.perf_counter() - start:9.1f}",
                flush=True,
            )
        mean = {key: np.mean([result[key] for result in results]) for key in results[0]}
        print(f"{name:8}{'mean':>6}{mean['accuracy']:10.4f}{mean['macro_f1']:10.4f}", flush=True)


if __name__ == "__main__":
    main()
