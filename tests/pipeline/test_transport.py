"""The transport, an optional component: what it adds to an edit, and that all else is as without it."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from testing.tiny_models import make_deep_pipeline, make_model, make_pipeline

from sdic_plugin import CheckpointError, DirectionEdit, FeatureTransport, SDICInversion, SDICPipeline
from sdic_plugin.evaluation.speed import parts_of
from sdic_plugin.photos.fingerprints import pipeline_digest

TURN = DirectionEdit("turn", tensors={"direction": torch.randn(10, 16, generator=torch.Generator().manual_seed(5))})


@pytest.fixture
def moving():
    """A pipeline with a transport, and an edit."""
    pipe = make_deep_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.add_edit(TURN)
    return pipe


@pytest.fixture
def plain(moving):
    """The same without."""
    pipe = SDICPipeline(**{**moving.components, "transport": None})
    pipe.set_progress_bar_config(disable=True)
    pipe.add_edit(TURN)
    return pipe


@pytest.fixture
def photos():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def pixels(pipe, inversion, **options):
    return pipe.edit(inversion, output_type="pt", **options).images


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_strength_is_the_inversion_bitwise(moving, plain, photos, dtype):
    moving.to(dtype)
    inversion = moving.invert(photos)
    unedited = pixels(moving, inversion, edits={})
    assert torch.equal(pixels(moving, inversion, edits={"turn": 0.0}), unedited)
    strengths = {"edits": {"turn": [0.0, 1.0]}}
    first, second = pixels(moving, inversion[1], **strengths) - pixels(plain, inversion[1], **strengths)
    assert not first.any() and second.any()
    assert torch.equal(pixels(plain, inversion, edits={}), unedited)


def test_edited_features_are_those_of_the_equation(moving, photos):
    inversion = moving.invert(photos)
    latents = inversion.compensated_latents + 1.5 * TURN.tensors["direction"]
    change = moving.generator(latents, stop_at_features=True).features - inversion.reference_features
    known = inversion.compensated_features, inversion.reference_features
    added = moving.transport(*known, change) - moving.transport(*known, torch.zeros_like(change))
    wanted = moving.generator(latents, features=inversion.compensated_features + change + added).image
    found = pixels(moving, inversion, edits={"turn": 1.5})
    torch.testing.assert_close(found, (wanted.detach() / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_it_moves_edits_and_nothing_else(moving, plain, photos):
    inversion = moving.invert(photos)
    edit = {"edits": {"turn": 1.0}}
    assert not torch.allclose(pixels(moving, inversion, **edit), pixels(plain, inversion, **edit), atol=1e-2)
    assert torch.equal(
        pixels(moving, inversion, **edit, compensation=0.0), pixels(plain, inversion, **edit, compensation=0.0)
    )
    official = {**edit, "feature_edit": "official"}
    assert torch.equal(pixels(moving, inversion, **official), pixels(plain, inversion, **official))
    nothing = {**edit, "mask": torch.zeros(32, 32)}
    assert torch.equal(pixels(moving, inversion, **nothing), pixels(plain, inversion, **nothing))


def test_training_corrects_weak_edits_weakly_beside_strong_ones():
    """BatchNorm's scale must be the same with the edit and without: else even the weakest edit would get a jump."""
    network = make_model("transport").train()
    with torch.no_grad():
        network.network[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
    features, reference, change = torch.randn(3, 4, network.config.feature_channels, 8, 8).unbind()
    change = 3 * change * torch.tensor([1.0, 1.0, 1.0, 1e-4])[:, None, None, None]
    size = network.correct(features, reference, change).square().mean(dim=(1, 2, 3)).sqrt()
    assert 0 < size[3] < 1e-2 * size[:3].min()


def test_an_edit_is_one_pass_of_each(moving, photos):
    calls = {"transport": 0, "generator": 0}
    inversion = moving.invert(photos)
    for name in calls:
        getattr(moving, name).register_forward_pre_hook(
            lambda module, inputs, name=name: calls.update({name: calls[name] + 1})
        )
    moving.edit(inversion, edits={"turn": 1.0})
    assert calls == {"transport": 1, "generator": 1}


def test_saved_inversions_go_without_it(moving, plain, photos, tmp_path):
    inversion = moving.invert(photos)
    assert inversion.transport_at_rest is not None and plain.invert(photos).transport_at_rest is None
    inversion.save(tmp_path / "a.safetensors")
    loaded = moving.load_inversion(tmp_path / "a.safetensors")
    assert loaded.transport_at_rest is None
    for found in (loaded, SDICInversion.cat([inversion[:1], loaded[1:]]), inversion):
        torch.testing.assert_close(
            pixels(moving, found, edits={"turn": 1.0}), pixels(moving, inversion, edits={"turn": 1.0})
        )
    assert torch.equal(pixels(plain, inversion, edits={}), pixels(moving, loaded, edits={}))


def test_what_is_cached_must_fit(moving, photos):
    inversion = moving.invert(photos)
    changed = dataclasses.replace(inversion, transport_at_rest=inversion.transport_at_rest[:2])
    with pytest.raises(CheckpointError, match="transport_at_rest has the shape"):
        moving.edit(changed, edits={"turn": 1.0})


def test_refined_inversions_have_their_own(moving, photos):
    refined = moving.invert(photos, refine_steps=2)
    known = refined.compensated_features, refined.reference_features
    wanted = moving.transport(*known, torch.zeros_like(known[0]))
    torch.testing.assert_close(refined.transport_at_rest, wanted.detach())


def test_folders_come_back_with_and_without(moving, plain, photos, tmp_path):
    moving.save_pretrained(tmp_path / "moving")
    plain.save_pretrained(tmp_path / "plain")
    assert json.loads((tmp_path / "moving/model_index.json").read_text())["transport"] == [
        "sdic_plugin",
        "FeatureTransport",
    ]
    assert "transport" not in json.loads((tmp_path / "plain/model_index.json").read_text())
    loaded = SDICPipeline.from_pretrained(tmp_path / "moving")
    assert isinstance(loaded.transport, FeatureTransport)
    assert torch.equal(
        pixels(loaded, loaded.invert(photos), edits={"turn": 1.0}),
        pixels(moving, moving.invert(photos), edits={"turn": 1.0}),
    )
    assert SDICPipeline.from_pretrained(tmp_path / "plain").transport is None
    without = SDICPipeline.from_pretrained(tmp_path / "plain", transport=moving.transport)
    assert without.transport is moving.transport
    assert list(plain.components) == [name for name in moving.components if name != "transport"]


def test_one_that_does_not_fit_is_named(plain):
    with pytest.raises(CheckpointError, match=r"number of feature channels is .* in the transport"):
        SDICPipeline(**plain.components, transport=make_model("transport", feature_channels=12))
    with pytest.raises(CheckpointError, match="'transport' is of the class DICN, but FeatureTransport is needed"):
        SDICPipeline(**plain.components, transport=plain.dicn)


def test_another_generator_keeps_it(moving, photos):
    other = moving.with_generator(make_model("generator", seed=1, generator_id="other"))
    assert other.transport is moving.transport
    inversion = moving.invert(photos)
    assert not torch.allclose(
        pixels(other, inversion, edits={"turn": 1.0}), pixels(moving, inversion, edits={"turn": 1.0}), atol=1e-2
    )


def test_an_inversion_of_another_transport_is_edited_with_this_one(moving, photos, tmp_path):
    other = SDICPipeline(**{**moving.components, "transport": make_model("transport", seed=1)})
    other.add_edit(TURN)
    inversion = moving.invert(photos)
    inversion.save(tmp_path / "inversion.safetensors")
    wanted = pixels(other, other.load_inversion(tmp_path / "inversion.safetensors"), edits={"turn": 1.0})
    assert torch.equal(pixels(other, inversion, edits={"turn": 1.0}), wanted)
    mixed = SDICInversion.cat([inversion, other.invert(photos)])
    assert mixed.transport_at_rest is None
    same = SDICInversion.cat([inversion, inversion])
    assert same.transport_at_rest is not None and same.transport_key == inversion.transport_key


def test_results_on_disk_tell_transports_apart(moving, plain):
    other = SDICPipeline(**{**moving.components, "transport": make_model("transport", seed=1)})
    assert len({pipeline_digest(pipe) for pipe in (moving, plain, other)}) == 3


def test_it_is_timed(moving):
    parts = parts_of(moving, batch=1)
    assert {"second look", "transport"} <= parts.keys() and not {"second look", "transport"} & parts_of(
        make_pipeline(), batch=1
    ).keys()
    for part in parts.values():
        part()
