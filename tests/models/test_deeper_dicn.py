"""DICN beyond the paper: residual blocks on what it adds to the features, and a second look at the photo."""

from __future__ import annotations

import json

import pytest
import torch
from testing.tiny_models import make_model

from sdic_plugin import CheckpointError, SDICError, SDICPipeline
from sdic_plugin.checkpoints.folder import check_component
from sdic_plugin.models import DICN
from sdic_plugin.models.residual import at_size_of
from sdic_plugin.training.compensated import compensate, encode
from sdic_plugin.training.initialization import deepen_dicn

DEPTH = {
    "residual_blocks": 2,
    "residual_channels": 6,
    "second_look_blocks": 1,
    "second_look_channels": 8,
    "second_looks": 2,
}


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


def inputs(rows=32):
    return random(2, 3, rows, 32), random(2, 10, 8, 8), random(2, 10, 16)


@pytest.fixture
def deep():
    """Every weight random, those that would start at zero, too."""
    return make_model("dicn", **DEPTH)


def test_a_published_dicn_goes_on_as_it_was():
    before = make_model("dicn")
    deeper = deepen_dicn(before, **DEPTH)
    assert len(deeper.looks) == 2 and before.looks == []
    for found, wanted in zip(deeper(*inputs(), return_dict=False), before(*inputs(), return_dict=False), strict=True):
        torch.testing.assert_close(found, wanted)
    photo, (discrepancy, features, _) = random(2, 3, 32, 32), inputs()
    assert torch.equal(deeper.look_again(photo, discrepancy, -photo, features), features)
    assert deepen_dicn(deeper, **DEPTH) is deeper and deepen_dicn(deeper) is deeper
    with pytest.raises(
        SDICError, match=r"residual_blocks=3, .* but the model's DICN has residual_blocks=2, residual_channels=6"
    ):
        deepen_dicn(deeper, residual_blocks=3)


def test_every_part_learns_from_the_start():
    dicn = deepen_dicn(make_model("dicn"), **DEPTH).train()
    discrepancy, features, latents = inputs()
    features, latents = dicn(discrepancy, features, latents, return_dict=False)
    for look in range(2):
        features = dicn.look_again(discrepancy, discrepancy, -discrepancy, features, look=look)
    (features.square().mean() + latents.square().mean()).backward()
    for last in (dicn.features.residual[-1], *(look.network[-1] for look in dicn.looks)):
        assert last.weight.grad.abs().max() > 0


def test_pixels_come_to_the_hook_whole():
    images = random(2, 3, 16, 32)
    brought = at_size_of(torch.empty(2, 5, 4, 8), images)
    assert brought.shape == (2, 48, 4, 8)
    torch.testing.assert_close(brought.square().sum(), images.square().sum())


def test_each_sees_all_that_it_should(deep):
    discrepancy, features, latents = inputs()
    photo, rendering = random(2, 3, 32, 32), -random(2, 3, 32, 32)
    seen = [photo, discrepancy, rendering, features]
    before = deep.look_again(*seen)
    for i in range(4):
        changed = [torch.roll(x, 3, dims=-1) if j == i else x for j, x in enumerate(seen)]
        assert not torch.allclose(deep.look_again(*changed) - changed[3], before - features, atol=1e-4)
    assert not torch.equal(deep.look_again(*seen), deep.look_again(*seen, look=1))
    gated = deep(discrepancy, features, latents).compensated_features
    with torch.no_grad():
        deep.features.residual[-1].weight.zero_()
    assert not torch.allclose(deep(discrepancy, features, latents).compensated_features, gated, atol=1e-4)


def test_rows_without_a_picture_stay_as_they_are(deep):
    discrepancy, features, latents = inputs(rows=16)
    compensated = deep(discrepancy, features, latents, first_row=2).compensated_features
    again = deep.look_again(discrepancy, discrepancy, -discrepancy, compensated, first_row=2)
    for found in (compensated, again):
        assert torch.equal(found[:, :, :2], features[:, :, :2]) and torch.equal(found[:, :, 6:], features[:, :, 6:])
    assert not torch.allclose(again[:, :, 2:6], compensated[:, :, 2:6])


def test_weights_and_configuration_come_back(deep, tmp_path):
    deep.save_pretrained(tmp_path)
    loaded = DICN.from_pretrained(tmp_path)
    assert {key: loaded.config[key] for key in DEPTH} == DEPTH
    assert all(torch.equal(value, deep.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_pipeline_and_training_look_again_alike(pipe, deep):
    pipe = SDICPipeline(**{**pipe.components, "dicn": deep.eval()})
    photo = random(2, 3, 32, 32).clamp(-1, 1)
    inversion = pipe.invert(photo / 2 + 0.5)
    first = pipe.dicn(inversion.discrepancy, inversion.features, inversion.latents).compensated_features
    assert not torch.allclose(inversion.compensated_features, first, atol=1e-3)
    encoded = encode(photo, pipe.encoder, pipe.generator)
    with torch.no_grad():
        trained = compensate(photo, encoded, pipe.generator, pipe.dipn, pipe.dicn)
    torch.testing.assert_close(trained.compensated_features, inversion.compensated_features, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        pipe.generator(inversion.compensated_latents, stop_at_features=True).features, inversion.reference_features
    )
    unedited = pipe.edit(inversion, edits={}, output_type="pt").images
    rendered = pipe.generator(inversion.compensated_latents, features=inversion.compensated_features).image
    torch.testing.assert_close(unedited, (rendered.detach() / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_one_look_keeps_its_names_and_more_stand_after_it():
    """Weights of earlier versions have one look."""
    one, two = (make_model("dicn", **DEPTH | {"second_looks": count}).state_dict() for count in (1, 2))
    first = {key for key in one if key.startswith("second_look.network.")}
    assert first and one.keys() <= two.keys()
    assert {key.removeprefix("later_looks.0.") for key in two.keys() - one.keys()} == {
        key.removeprefix("second_look.") for key in first
    }


@pytest.mark.parametrize("count", [0, -1])
def test_second_looks_must_be_some(count):
    with pytest.raises(SDICError, match=f"second_looks is {count}, but must be a whole number from 1 on"):
        make_model("dicn", **DEPTH | {"second_looks": count})


@pytest.mark.parametrize("name", ["residual_blocks", "second_look_blocks", "second_looks"])
def test_absurd_depths_in_a_downloaded_folder_are_refused(deep, tmp_path, name):
    deep.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: 50_000}))
    with pytest.raises(CheckpointError, match=f"{name} = 50000, but at most 1000 is possible"):
        check_component(tmp_path, DICN)
