"""Numbers stay finite, or the training ends with the place where they did not, and with advice."""

import json
import random

import numpy as np
import pytest
from test_finetune import Letters, pretrained_folder
from test_train import TINY, sentences

import tinygrad_mha as tg
from tests import kill
from tinygrad_mha.models import cli, finetune
from tinygrad_mha.models import train as training
from tinygrad_mha.models.parallel import Workers
from tinygrad_mha.models.run import READ_EVERY, BlownUp, Run
from tinygrad_mha.models.train import Settings, split

QUICK = [*kill.SMALL, "--epochs", "3"]


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kill.write_data("data.csv", rows=90)

    def run(*arguments):
        status = cli.main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("lr", [1e6, 1e30])
def test_a_learning_rate_that_blows_up(here, tmp_path, optimizer, lr):
    status, out, err = here(
        "train", "data.csv", "--out", "m", *QUICK, "--optimizer", optimizer, "--lr", lr
    )
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].endswith(f"; try a smaller --lr than {lr:g}")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_certificate_of_a_step_without_numbers(cupy, monkeypatch, device):
    """The op that gave the first NaN, though the step was made by workers and is over."""
    parts = split(sentences())
    plain = Run.train_step

    def poisoned(self, *batch):
        if self.step == 2:
            self.model.fc.weight.data[0, 0] = np.inf
            self.model.fc.bias.data[0] = -np.inf
        return plain(self, *batch)

    monkeypatch.setattr(Run, "train_step", poisoned)
    with pytest.raises(BlownUp, match=r"^the loss became nan at step 3 of epoch 1; ") as caught:
        training.train(parts, Settings(**{**TINY, "workers": 2}, epochs=1, device=device))
    assert "linear gave NaN at index (" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "text_classifier.py, line " in caught.value.certificate


def test_a_run_whose_losses_nobody_reads_keeps_few_batches():
    """A bench or a caller of its own steps a run without ever looking: nothing may pile up."""
    found = training.prepared(split(sentences()), settings := Settings(**TINY, epochs=1))
    trained = training.with_initial_weights(found.vocabulary, found.labels, settings)
    batches = training.BucketedBatches(found.fit.ids, found.fit.targets, 16, seed=0)
    run = Run(trained, settings, batches, None)
    batch = next(batches.epoch())
    with Workers(1, parameters=run.parameters) as workers:
        for _ in range(READ_EVERY + 9):
            run.train_step(batch.ids, batch.lengths, batch.targets, workers)
    assert len(run.unread) == READ_EVERY
    assert run.unread[-1][0] == READ_EVERY + 8  # the last are kept


def test_what_was_good_before_is_kept(monkeypatch):
    """The best epoch's weights, told; a run of ten hours is not lost to its last minute."""
    parts, plain = split(sentences()), Run.loss_of

    def loss_of(self, part, *batch):
        loss, said = plain(self, part, *batch)
        return (loss * np.inf if len(self.history) == 2 else loss), said

    monkeypatch.setattr(Run, "loss_of", loss_of)
    # the schedule knows how many epochs there will be: give both the same
    monkeypatch.setattr(tg.optim, "WarmupCosine", Constant)
    with pytest.warns(RuntimeWarning, match=r"norm of the gradients became .* of epoch 3; .* best"):
        stopped = training.train(parts, Settings(**TINY, epochs=9, early_stopping=0))
    assert stopped.metrics["epochs"] == 2
    assert "epoch 3" in stopped.metrics["notice"]
    monkeypatch.setattr(Run, "loss_of", plain)
    whole = training.train(parts, Settings(**TINY, epochs=2))
    for name, x in whole.model.state_dict().items():
        np.testing.assert_array_equal(stopped.model.state_dict()[name], x)


class Constant(tg.optim.Schedule):
    def __init__(self, optimizer, **_):
        super().__init__(optimizer, lambda step: 1.0)


def test_a_run_that_goes_wild_in_finite_numbers(monkeypatch):
    with pytest.raises(BlownUp, match=r"after an epoch, a guess has 0\.693; try a smaller --lr"):
        training.train(split(sentences()), Settings(**TINY, epochs=9, lr=1e4, optimizer="sgd"))


def test_a_model_that_guesses_says_so(here):
    status, _, err = here("train", "data.csv", "--out", "m", *QUICK, "--lr", 1e-9)
    assert status == 0
    assert "it guesses: its loss is 1." in err
    assert "a guess has 1.1, after " in err
    assert "steps; try more --epochs than 3, or another --lr than 1e-09" in err


def test_a_fine_tuning_that_blows_up(here, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "WordPiece", Letters)
    base = pretrained_folder(tmp_path / "base")
    status, _, err = here(
        "finetune", "data.csv", "--base", base, "--tune", "all", "--out", "m", "--lr", 1e20,
        "--epochs", 2, "--workers", 1, "--max-len", 6, "--accumulate", 2, "--batch-size", 8,
    )  # fmt: skip
    assert status == 1
    last = err.splitlines()[-1]
    assert " at step " in last
    assert " gave " in last
    assert last.endswith("try a smaller --lr than 1e+20")


def test_empty_and_endless_texts_and_classes_of_one(here, tmp_path):
    rng = random.Random(0)
    with open("odd.csv", "w") as file:
        file.write("text,label\n")
        for k in range(60):
            words = [rng.choice(["x", "y", "ab"[k % 2]]) for _ in range(3000 if k % 13 == 0 else 3)]
            file.write(f'"{"" if k % 7 == 0 else " ".join(words)}",{"ab"[k % 2]}\n')
        file.write(f'"only one",c\n"   ",d\n"{"z" * 100000}",e\n')
    for more in (["--class-weight", "balanced"], ["--level", "char", "--max-len", 40]):
        status, out, err = here("train", "odd.csv", "--out", "m", *QUICK, *more, "--json")
        assert status == 0, err
        assert np.isfinite(json.loads(out.splitlines()[-1])["loss"])
        (tmp_path / "lines.txt").write_text("\n   \nx\n" + "y " * 5000 + "\n")
        status, out, err = here("predict", "m", "lines.txt", "--proba")
        assert status == 0, err
        answers = [json.loads(line) for line in out.splitlines()]
        assert [a.keys() == set("abcde") for a in answers] == [True] * 4
        assert all(abs(sum(a.values()) - 1) < 1e-4 for a in answers)
        assert answers[0] == answers[1] or "char" in more  # there, blanks are characters
