"""A memory budget: chosen by itself, kept, and without any influence on the weights."""

import numpy as np
import pytest

import tinygrad_mha as tg
from tinygrad_mha.models import InputError, TextClassifier
from tinygrad_mha.models.dataset import Dataset
from tinygrad_mha.models.recompute import LEVELS, fit, kept_bytes
from tinygrad_mha.models.train import Settings, split, train


def model_and_loss(tokens=40):
    tg.manual_seed(0)
    model = TextClassifier(50, 16, 3, h=4)
    ids = np.random.default_rng(0).integers(1, 50, (6, tokens))
    return model, lambda: tg.cross_entropy(model(ids), np.zeros(6, np.int64))


def kept_at(level, tokens=40):
    model, loss_of = model_and_loss(tokens)
    model.recompute = level
    return kept_bytes(loss_of(), model.parameters())


def test_what_a_graph_keeps_is_counted_once_and_without_the_weights():
    w, x = tg.nn.Parameter(np.ones((4, 4))), tg.Tensor(np.ones((3, 4)))
    y = x @ w  # keeps x and w; what follows keeps y, of which the transpose is a view
    assert kept_bytes(y, [w]) == x.data.nbytes
    assert kept_bytes(y) == x.data.nbytes + w.data.nbytes
    product = y * y.T.T
    assert kept_bytes(product.sum(), [w]) == sum(a.data.nbytes for a in (x, y, product))


def test_each_level_keeps_less():
    kept = [kept_at(level) for level in LEVELS]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 1.5 * kept[1] > 1.5**2 * kept[2] > 1.5**3 * kept[3]
    scores = 6 * 4 * 40 * 40
    assert kept[0] - kept[1] == scores * (4 + 1)  # p, and what dropout keeps


def test_the_least_recomputation_that_fits_is_chosen():
    plain = kept_at(())
    for budget, level in ((10 * plain, ()), (plain, ()), (plain - 1, ("scores",))):
        model, loss_of = model_and_loss()
        assert fit(model, loss_of, budget) <= budget
        assert model.recompute == level


def test_a_budget_that_nothing_fits_says_so_and_changes_nothing():
    model, loss_of = model_and_loss()
    with pytest.raises(InputError, match=r"keeps \d+ MB at the least.*choose a smaller --batch-s"):
        fit(model, loss_of, 1000)
    assert model.recompute == ()


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefgh"), 120)) for _ in range(60)]
    return split(Dataset(texts, ["xy"[k % 2] for k in range(60)], list(range(60)), "here"))


def test_the_weights_of_a_training_run_do_not_depend_on_it(parts, monkeypatch):
    given = {"d_model": 16, "epochs": 2, "batch_size": 16, "workers": 1, "min_count": 1}
    chosen = []

    def trained(memory):
        model = train(parts, Settings(memory=memory, **given)).model
        chosen.append(model.recompute)
        return {name: w.tobytes() for name, w in model.state_dict().items()}

    assert trained(0) == trained(4)
    assert chosen == list(LEVELS[:2])


def test_the_command_line_passes_it_on(tmp_path, capsys):
    from tinygrad_mha.models.cli import main

    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "".join(f"{'a b c ' * 90}{k},{k % 2}\n" for k in range(40)))
    arguments = ["train", str(path), "--out", str(tmp_path / "m"), "--epochs", "1", "--memory"]
    assert main([*arguments, "1"]) == 2
    assert "choose a smaller --batch-size" in capsys.readouterr().err
    assert main([*arguments, "2000"]) == 0
