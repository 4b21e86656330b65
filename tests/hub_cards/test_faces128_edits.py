"""The edits of the faces: what their measures see, and that they are found alike every time and told apart."""

from __future__ import annotations

import re

import pytest
import torch
from testing.tiny_models import make_model

from hub_cards.faces128 import edits as faces128_edits
from hub_cards.faces128 import measures as faces128_measures
from hub_cards.faces128.measures import MEASURES
from sdic_plugin.edits.discovery import brightness, warmth
from sdic_plugin.edits.face_measures import FACE_MEASURES
from sdic_plugin.edits.steering import SteeringConfig
from sdic_plugin.utils.seeds import seeded_rng

ON_PIXELS = {name: measure for name, measure in MEASURES.items() if name not in FACE_MEASURES}


@pytest.fixture(scope="module")
def generator():
    return make_model("generator").eval().requires_grad_(False)


def painted(box: faces128_measures.Box, value: float, size: int = 128) -> torch.Tensor:
    """Grey with a lighter or darker box."""
    image = torch.full((1, 3, size, size), 0.5)
    left, upper, right, lower = (round(each * size) for each in box)
    image[:, :, upper:lower, left:right] = value
    return image


def test_measures_give_one_score_per_image():
    images = torch.rand(5, 3, 64, 64, generator=seeded_rng(0))
    for name, measure in ON_PIXELS.items():
        assert measure(images).shape == (5,), name
        torch.testing.assert_close(measure(images)[2], measure(images[2:3])[0], msg=name)


@pytest.mark.parametrize(
    ("name", "box", "value"),
    [
        ("side_light", faces128_measures.RIGHT_CHEEK, 0.9),
        ("side_light", faces128_measures.LEFT_CHEEK, 0.1),
        ("glasses", (0.45, 0.29, 0.55, 0.32), 0.1),
        ("beard", faces128_measures.CHIN, 0.1),
        ("fringe", faces128_measures.HAIRLINE, 0.1),
        ("open_eyes", (0.28, 0.29, 0.34, 0.33), 0.1),
        ("teeth", faces128_measures.MOUTH, 0.9),
        ("background", (0.0, 0.8, 0.2, 1.0), 0.9),
    ],
)
@pytest.mark.parametrize("size", [64, 128])
def test_measures_rise_with_what_they_are_named_after(name, box, value, size):
    plain = MEASURES[name](torch.full((1, 3, size, size), 0.5))
    assert MEASURES[name](painted(box, value, size)) > plain + 0.05
    elsewhere = painted((0.45, 0.57, 0.55, 0.63), value, size)  # under the nose, where nothing looks
    torch.testing.assert_close(MEASURES[name](elsewhere), plain, atol=1e-6, rtol=0)


def test_edits_name_scores_and_styles_that_there_are(generator):
    labels = {label.rpartition("=")[2] for label in faces128_edits.LABELS}
    names = [edit.name for edit in [*faces128_edits.SCORE_EDITS, *faces128_edits.WARP_EDITS]]
    assert len(set(names)) == len(names) >= 12
    for edit in faces128_edits.SCORE_EDITS:
        assert {edit.cause, *edit.moves_along} <= MEASURES.keys() | labels, edit.name
    for edit in [*faces128_edits.SCORE_EDITS, *faces128_edits.WARP_EDITS]:
        assert "(positive)" in edit.description and "(negative)" in edit.description
        assert edit.reach[0] <= -1 and edit.reach[1] >= 1
    assert not any("group" in label for label in faces128_edits.LABELS)


def test_edits_are_found_alike_and_raise_their_own_score(generator, monkeypatch):
    monkeypatch.setattr(faces128_edits, "STEERING", SteeringConfig(layers=(0, 5), steps=2, batch_size=2))
    chosen = [edit for edit in faces128_edits.SCORE_EDITS if edit.name in ("warmth", "brightness")]
    monkeypatch.setattr(faces128_edits, "SCORE_EDITS", chosen)
    measures = {"warmth": warmth, "brightness": brightness}
    edits, reports = faces128_edits.find_edits(generator, measures, samples=200)
    again, _ = faces128_edits.find_edits(generator, measures, samples=200)
    assert [edit.name for edit in edits] == ["brightness", "warmth", "eye_size", "face_width"]
    assert {report.name for report in reports} == {"brightness", "warmth"}
    for edit, other in zip(edits, again, strict=True):
        torch.testing.assert_close(edit.direction, other.direction, atol=1e-3, rtol=1e-3)
        edit.check_fits(generator)
    found = faces128_edits.effects(generator, edits, measures, count=40)
    for name in ("warmth", "brightness"):
        other = "brightness" if name == "warmth" else "warmth"
        assert found[name][name] > 0.1 and abs(found[name][other]) < abs(found[name][name])
    table = faces128_edits.effects_table(found).splitlines()
    assert table[0] == "| edit | warmth | brightness |" and len(table) == 2 + 4
    assert re.fullmatch(r"\| `brightness` \| [+-]\d\.\d\d \| [+-]\d\.\d\d \|", table[2])


def test_what_is_no_number_does_not_count():
    values = torch.tensor([1.0, float("nan"), 3.0])
    torch.testing.assert_close(faces128_edits.spread(values), torch.tensor([1.0, 3.0]).std())
