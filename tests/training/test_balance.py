"""Images with rare labels are drawn more often, as often as was asked for, and alike in every run."""

from __future__ import annotations

import csv
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from sdic_plugin.errors import SDICError
from sdic_plugin.images.cache import ImageSet, open_images
from sdic_plugin.training.balance import SamplingWeights, sampling_weights
from sdic_plugin.training.batches import BatchLoader
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.data import batch_indices
from sdic_plugin.training.trainer import Trainer
from sdic_plugin.utils.seeds import seeded_rng

LABELS = ["a"] * 60 + ["b"] * 30 + ["c"] * 10


def shares(power: float, epochs: int = 40) -> dict[str, float]:
    weights = SamplingWeights.of_labels(LABELS, power)
    drawn = torch.cat([batch_indices(100, 100, 0, step, weights) for step in range(epochs)])
    counts = Counter(LABELS[index] for index in drawn)
    return {label: counts[label] / len(drawn) for label in "abc"}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_labels_are_drawn_as_often_as_was_asked_for(power):
    wanted = {label: count ** (1 - power) for label, count in Counter(LABELS).items()}
    found = shares(power)
    for label, value in wanted.items():
        assert found[label] == pytest.approx(value / sum(wanted.values()), abs=0.002)


def test_equal_weights_draw_each_image_once_an_epoch():
    for weights in (SamplingWeights.of_labels(["same"] * 37, 1.0), SamplingWeights.of_labels(range(37), 1.0)):
        drawn = torch.cat([batch_indices(37, 10, 3, step, weights) for step in range(8)])
        for epoch in (drawn[:37], drawn[37:74]):
            assert sorted(epoch.tolist()) == list(range(37))


def test_how_often_an_image_is_drawn_differs_by_one_at_most():
    weights = SamplingWeights.of_labels(LABELS, 1.0)
    for seed in range(20):
        counts = np.bincount(weights.epoch(seeded_rng(seed)), minlength=100)
        assert counts.sum() == 100
        assert (np.abs(counts - weights.values.numpy()) < 1).all()


def test_batches_depend_on_the_step_alone():
    weights = SamplingWeights.of_labels(LABELS, 1.0)
    all_at_once = batch_indices(100, 70, 5, 0, weights)
    parts = torch.cat([batch_indices(100, 7, 5, step, weights) for step in (*range(5), *range(5, 10))])
    assert torch.equal(all_at_once, parts)
    again = SamplingWeights.of_labels(LABELS, 1.0)
    assert torch.equal(batch_indices(100, 30, 5, 9, again), batch_indices(100, 30, 5, 9, weights))


@pytest.fixture
def photos(tmp_path):
    """Twelve grey photos, the last three of which are the only old ones."""
    folder = tmp_path / "photos"
    folder.mkdir()
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "age", "sex"])
        for index in range(12):
            Image.new("RGB", (8, 8), (20 * index,) * 3).save(folder / f"{index:02}.png")
            table.writerow([f"{index:02}.png", "old" if index >= 9 else "young", "x"])
    return folder


def settings(photos, **changes) -> TrainingConfig:
    return TrainingConfig(**{"data": str(photos), "output": str(photos.parent / "run"), "batch_size": 12, **changes})


def drawn_old(images: ImageSet, config: TrainingConfig) -> int:
    """Old photos among those of six steps."""
    pixels = torch.cat([BatchLoader(images, config).take(step, 0) for step in range(6)])
    return int((pixels[:, 0, 0, 0] >= 180).sum())


def test_the_loader_draws_by_labels(photos):
    images = open_images(photos, 8, cache=photos.parent / "cache")
    assert drawn_old(images, settings(photos)) == 18
    assert drawn_old(images, settings(photos, balance=["age"], balance_power=1.0)) == 36
    assert 18 < drawn_old(images, settings(photos, balance=["age", "sex"])) < 36
    elsewhere = (photos / "labels.csv").rename(photos.parent / "elsewhere.csv")
    assert drawn_old(images, settings(photos, balance=["age"], balance_power=1.0, labels=str(elsewhere))) == 36


def test_images_held_out_do_not_count(photos):
    images = open_images(photos, 8, cache=photos.parent / "cache")
    weights = sampling_weights(settings(photos, balance=["age"], balance_power=1.0), images.subset([0, 1, 2, 10]))
    torch.testing.assert_close(weights.values, torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"balance": ["years"]}, "no column 'years': there are 'file', 'age', 'sex'"),
        ({"balance": ["age"], "labels": "nowhere.csv"}, "nowhere.csv cannot be read"),
        ({"balance": ["age"], "data": "dataset:user/faces"}, "no table of labels .* name one as `labels`"),
    ],
)
def test_missing_labels_are_named(photos, changes, words):
    images = open_images(photos, 8, cache=photos.parent / "cache")
    with pytest.raises(SDICError, match=words):
        sampling_weights(settings(photos, **changes), images)


def test_labels_that_nothing_is_balanced_by_are_refused(photos):
    with pytest.raises(SDICError, match="but nothing is balanced by them: set balance"):
        settings(photos, labels="labels.csv")


def test_a_mistake_in_the_labels_leaves_nothing(photos):
    images = open_images(photos, 8, cache=photos.parent / "cache")
    with pytest.raises(SDICError, match="no column 'years'"):
        Trainer(settings(photos, balance=["years"]), {"one": torch.nn.Linear(2, 2)}, [], images)
    assert not (photos.parent / "run").exists()


def test_a_run_goes_on_with_the_same_labels_only(photos):
    images = open_images(photos, 8, cache=photos.parent / "cache")
    trainer = Trainer(
        settings(photos, balance=["age"], steps=1, decay_from=1.0), {"one": torch.nn.Linear(2, 2)}, [], images
    )
    trainer.train(lambda _: {"loss": 0.0}, dict)
    moved = (photos / "labels.csv").rename(photos.parent / "moved.csv")
    again = settings(photos, balance=["age"], labels=str(moved), steps=2, decay_from=1.0)
    assert Trainer(again, {"one": torch.nn.Linear(2, 2)}, [], images).step == 1
    moved.write_text(moved.read_text().replace("08.png,young", "08.png,old"))
    with pytest.raises(SDICError, match="drawn by weights"):
        Trainer(again, {"one": torch.nn.Linear(2, 2)}, [], images)
