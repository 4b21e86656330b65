"""Additions to the compensation's loss that let edits survive."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from testing.tiny_models import TRAINED_COMPENSATION

from sdic_plugin import (
    DICN,
    DIPN,
    E4EEncoder,
    SDICError,
    SDICPipeline,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)
from sdic_plugin.training.compensated import compensate, encode, render, render_edited
from sdic_plugin.training.compensation import CompensationTrainingConfig, train_compensation
from sdic_plugin.training.edit_survival import (
    cycle_loss,
    draw_edits,
    draw_misalignment,
    draw_z,
    edit_transfer_loss,
    misalign,
    random_edits,
    random_latents,
    relative_error,
    synthetic_edit_loss,
)
from sdic_plugin.training.initialization import start_compensation

CHANNELS = {"4": 16, "8": 16, "16": 8, "32": 8}


@pytest.fixture
def photo_folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(8):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=rng(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return folder


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def draw_synthetic(generator, count):
    stream = rng()
    return draw_z(generator, count, stream), draw_edits(generator, count, stream)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        resolution=32, style_width=16, mapping_layers=2, channels=CHANNELS, feature_resolution=16
    )
    encoder = E4EEncoder(32, generator.num_styles, 16, [8, 8, 8, 8], [1, 1, 1, 1], 8)
    dipn = DIPN([8, 8, 8, 8, 8], 4, [4, 8, 8, 8], 8)
    dicn = DICN(generator.feature_channels, generator.num_styles, 16, 2, 16, strides=[2, 1])
    start_compensation(dipn, dicn)
    for network in (generator, encoder, dipn, dicn):
        network.eval()
    return generator, encoder, dipn, dicn


def test_random_edits_act_on_whole_latents_or_ranges_of_styles(networks):
    generator = networks[0]
    latents = random_latents(generator, draw_z(generator, 64, rng()))
    offsets = random_edits(latents, generator, draw_edits(generator, len(latents), rng(1)))
    assert offsets.shape == latents.shape
    changed = (offsets != 0).any(dim=2)
    assert changed.any(dim=1).all()
    assert 0 < changed.all(dim=1).sum() < 64
    for row in changed[~changed.all(dim=1)]:
        indices = row.nonzero()[:, 0]
        assert len(indices) == indices[-1] - indices[0] + 1
    assert torch.equal(offsets, random_edits(latents, generator, draw_edits(generator, len(latents), rng(1))))


def test_edits_without_compensation_do_what_they_must(networks):
    generator, _, dipn, dicn = networks
    detail = torch.rand(4, 3, 32, 32) * 0.1
    with torch.no_grad():
        loss = synthetic_edit_loss(detail, generator, dipn, dicn, *draw_synthetic(generator, len(detail)))
        assert loss < 1e-8
        dicn.features.semantic[-1].weight.normal_(std=0.3)
        compensating = synthetic_edit_loss(detail, generator, dipn, dicn, *draw_synthetic(generator, len(detail)))
        dicn.reset_to_identity()
    assert compensating > 1e-6


def test_edit_transfer_compares_inversions_with_initial_reconstructions(networks):
    generator, encoder, dipn, dicn = networks
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    encoded = encode(images, encoder, generator)
    offset = random_edits(encoded.latents, generator, draw_edits(generator, 4, rng()))
    same = edit_transfer_loss(encoded, compensate(images, encoded, generator, dipn, dicn), generator, offset)
    assert same < 1e-8  # DICN adds nothing yet
    dicn.features.semantic[-1].weight.data.normal_(std=0.3)
    dicn.zero_grad()
    compensated = compensate(images, encoded, generator, dipn, dicn)
    loss = edit_transfer_loss(encoded[::2], compensated[::2], generator, offset[::2])
    loss.backward()
    assert loss > 1e-6 and dicn.features.semantic[-1].weight.grad.abs().sum() > 0
    dicn.reset_to_identity()


def test_relative_error_counts_weak_and_strong_changes_alike():
    wanted = torch.ones(2, 3, 4, 4) * torch.tensor([0.2, 2.0])[:, None, None, None]
    assert relative_error(wanted, wanted) == 0
    assert relative_error(torch.zeros_like(wanted), wanted) == pytest.approx(1, abs=2e-3)
    torch.testing.assert_close(relative_error(wanted / 2, wanted), torch.tensor(0.25), atol=1e-3, rtol=0)


def test_batch_norm_remembers_photos_only(networks):
    generator, encoder, dipn, dicn = (copy.deepcopy(network) for network in networks)
    dipn.train(), dicn.train()
    before = {key: value.clone() for key, value in [*dipn.state_dict().items(), *dicn.state_dict().items()]}
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        synthetic_edit_loss(images * 0.1, generator, dipn, dicn, *draw_synthetic(generator, len(images)))
        compensated = compensate(images, encode(images, encoder, generator), generator, dipn.eval(), dicn.eval())
        cycle_loss(
            images,
            compensated,
            encoder,
            generator,
            dipn.train(),
            dicn.train(),
            draw_edits(generator, len(images), rng()),
        )
    after = dict([*dipn.state_dict().items(), *dicn.state_dict().items()])
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_edited_rendering_is_the_pipelines(networks):
    generator, encoder, dipn, dicn = networks
    from sdic_plugin import SDICPipeline

    with torch.no_grad():
        dicn.features.semantic[-1].weight.normal_(std=0.3)
        images = torch.rand(2, 3, 32, 32) * 2 - 1
        compensated = compensate(images, encode(images, encoder, generator), generator, dipn, dicn)
        offset = random_edits(
            compensated.compensated_latents,
            generator,
            draw_edits(generator, len(compensated.compensated_latents), rng()),
        )
        ours, _ = render_edited(compensated, offset, generator)
    pipe = SDICPipeline(encoder, dipn, dicn, generator)
    pipe.set_progress_bar_config(disable=True)
    inversion = pipe.invert(images / 2 + 0.5)
    theirs = pipe.edit(inversion, latents=inversion.compensated_latents + offset, output_type="pt").images
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-5, rtol=0)
    with torch.no_grad():
        dicn.reset_to_identity()


def test_cycle_teaches_both_networks(networks):
    generator, encoder, dipn, dicn = networks
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    for network in (dipn, dicn):
        network.zero_grad()
    with torch.no_grad():
        dicn.features.semantic[-1].weight.normal_(std=0.01)
        compensated = compensate(images, encode(images, encoder, generator), generator, dipn, dicn)
    cycle_loss(
        images, compensated, encoder, generator, dipn, dicn, draw_edits(generator, len(images), rng())
    ).backward()
    for network in (dipn, dicn):
        assert sum(p.grad.abs().sum() for p in network.parameters() if p.grad is not None) > 0
    with torch.no_grad():
        dicn.reset_to_identity()


def test_misalignment_moves_pictures_by_no_more_than_asked():
    ramp = torch.linspace(0, 1, 64).expand(8, 3, 64, 64)
    assert torch.allclose(misalign(ramp, draw_misalignment(len(ramp), 0.0, rng())), ramp, atol=1e-5)
    moved = misalign(ramp, draw_misalignment(len(ramp), 0.05, rng())) - ramp
    assert 0.005 < moved[:, :, 8:-8, 8:-8].abs().max() <= 0.051


def test_rendering_without_an_encoder_is_clamped(networks):
    generator = networks[0]
    encoded = render(random_latents(generator, draw_z(generator, 2, rng())) * 50, generator, 32)
    assert encoded.initial.abs().max() <= 1


def test_every_addition_can_be_trained_with(networks, tmp_path, photo_folder):
    generator, encoder, *_ = networks
    for name, network in (
        ("generator", generator),
        ("encoder", encoder),
        ("discriminator", StyleGAN2Discriminator(32, CHANNELS)),
    ):
        network.save_pretrained(tmp_path / "base" / name)
    settings = {
        "data": str(photo_folder),
        "output": str(tmp_path / "run"),
        "model": str(tmp_path / "base"),
        "steps": 2,
        "batch_size": 4,
        "log_every": 1,
        **TRAINED_COMPENSATION,
        "misalignment": 0.02,
        "validation_images": 4,
    }
    names = ("ssim", "discrepancy", "edit_transfer", "synthetic_edit", "cycle", "adversarial")
    train_compensation(CompensationTrainingConfig(**settings, **{f"{name}_weight": 0.1 for name in names}))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {*names, "pixel", "perceptual", "change", "discriminator"} <= lines[0].keys()


def test_dipn_may_stay_as_it_is(networks, tmp_path, photo_folder):
    for name, network in zip(("generator", "encoder", "dipn", "dicn"), networks, strict=True):
        network.save_pretrained(tmp_path / "base" / name)
    paths = {"data": str(photo_folder), "output": str(tmp_path / "run"), "model": str(tmp_path / "base")}
    settings = {"steps": 2, "batch_size": 4, "perceptual_weight": 0.0, "validation_images": 4, "ema_decay": 0.0}
    settings["mixed_precision"] = "bf16"  # whose wrapping the networks must lose before they are evaluated and saved
    folder = train_compensation(CompensationTrainingConfig(**paths, **settings, train_dipn=False))
    before, after = (
        {name: load_file(model / name / "diffusion_pytorch_model.safetensors") for name in ("dipn", "dicn")}
        for model in (tmp_path / "base", folder)
    )
    assert all(torch.equal(before["dipn"][key], after["dipn"][key]) for key in before["dipn"])
    assert not all(torch.equal(before["dicn"][key], after["dicn"][key]) for key in before["dicn"])


@pytest.mark.parametrize("train_dipn", [False, True])
def test_dipn_of_another_model_is_taken(networks, tmp_path, photo_folder, train_dipn):
    for name, network in zip(("generator", "encoder"), networks, strict=False):
        network.save_pretrained(tmp_path / "base" / name)
    other = SDICPipeline.from_pretrained("cats64").dipn
    paths = {"data": str(photo_folder), "output": str(tmp_path / "run"), "model": str(tmp_path / "base")}
    settings = {"steps": 1, "batch_size": 4, "perceptual_weight": 0.0, "validation_images": 4, "ema_decay": 0.0}
    config = CompensationTrainingConfig(**paths, **settings, train_dipn=train_dipn, dipn="cats64")
    taken = SDICPipeline.from_pretrained(train_compensation(config)).dipn
    assert taken.config.branch_channels == other.config.branch_channels
    same = [torch.equal(value, taken.state_dict()[key]) for key, value in other.state_dict().items()]
    assert all(same) != train_dipn
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert ("with encoder, generator of `base` and dipn of `cats64`." in card) != train_dipn


def test_perceptual_loss_without_a_network_says_what_to_give(networks, tmp_path, photo_folder):
    for name, network in zip(("generator", "encoder"), networks, strict=False):
        network.save_pretrained(tmp_path / "base" / name)
    config = CompensationTrainingConfig(
        data=str(photo_folder), output=str(tmp_path / "run"), model=str(tmp_path / "base")
    )
    with pytest.raises(SDICError, match=r"perceptual_weight=0"):
        train_compensation(config)
