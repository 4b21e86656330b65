"""Training: settings, order of images, losses, and that a killed run resumes to the same weights."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from testing.tiny_models import HALF_PRECISIONS, TRAINED_COMPENSATION

from sdic_plugin import (
    DirectionEdit,
    E4EEncoder,
    SDICError,
    SDICPipeline,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    write_edits,
)
from sdic_plugin.checkpoints.folder import write_parts_settings
from sdic_plugin.images.cache import load_images
from sdic_plugin.training.compensation import CompensationTrainingConfig, train_compensation
from sdic_plugin.training.config import load_config
from sdic_plugin.training.data import batch_indices, draw_flips, flip, step_rng
from sdic_plugin.training.encoder import EncoderTrainingConfig, active_offsets, train_encoder
from sdic_plugin.training.losses import (
    LatentDiscriminator,
    PerceptualLoss,
    in_full_precision,
    offset_norm,
    penalized_discriminator_loss,
    r1_penalty,
)
from sdic_plugin.training.trainer import learning_rate_at

CHANNELS = {"4": 16, "8": 16, "16": 8, "32": 8}
ENCODER = {"stage_channels": [8, 8, 8, 8], "stage_units": [1, 1, 1, 1], "head_channels": 8}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A generator and a discriminator for 32 px, and a zip of pictures the generator can make."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        resolution=32, style_width=16, mapping_layers=2, channels=CHANNELS, feature_resolution=8
    )
    generator.estimate_w_avg(500)
    generator.save_pretrained(folder / "generator")
    StyleGAN2Discriminator(resolution=32, channels=CHANNELS).save_pretrained(folder / "discriminator")
    with torch.no_grad():
        images = generator(generator.broadcast(generator.mapping(torch.randn(24, 16)))).image
    pixels = ((images / 4).clamp(-1, 1) * 127.5 + 127.5).byte().permute(0, 2, 3, 1).numpy()
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i, picture in enumerate(pixels):
            path = folder / f"{i:03d}.png"
            Image.fromarray(picture).save(path)
            archive.write(path, path.name)
    return folder


def encoder_config(base, output, **changes):
    values = {"data": str(base / "images.zip"), "model": str(base), "output": str(output), **ENCODER}
    values |= {"steps": 6, "batch_size": 4, "checkpoint_every": 2, "sample_every": 3, "log_every": 1}
    return EncoderTrainingConfig(**{**values, "validation_images": 4, **changes})


def weights(path):
    return load_file(path / "diffusion_pytorch_model.safetensors")


def test_encoder_learns(base, tmp_path):
    train_encoder(encoder_config(base, tmp_path, steps=40, learning_rate=3e-3, ema_decay=0.5, sample_every=20))
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["pixel"] for line in log if "pixel" in line]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert isinstance(E4EEncoder.from_pretrained(tmp_path / "model" / "encoder"), E4EEncoder)
    assert Image.open(tmp_path / "samples" / "step_00000020.png").size == (4 * 32, 2 * 32)


def test_edits_found_before_the_model_is_whole_stay_with_it(base, tmp_path):
    """Where they belong to its generator."""
    shutil.copytree(base, tmp_path / "base")
    config = tmp_path / "base" / "generator" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"generator_id": "its own"}))
    (tmp_path / "base" / "edits").mkdir()
    for name, made_for in (("own", "its own"), ("any", None), ("others", "another")):
        edit = DirectionEdit(name, tensors={"direction": torch.ones(16)})
        write_edits([edit], tmp_path / "base" / "edits" / f"{name}.safetensors", made_for)
    model = train_encoder(encoder_config(tmp_path / "base", tmp_path / "run", steps=1))
    assert sorted(path.stem for path in (model / "edits").iterdir()) == ["any", "own"]


def test_generators_of_pictures_in_some_rows_are_refused(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    config = tmp_path / "base" / "generator" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"content_rows": [4, 28]}))
    with pytest.raises(SDICError, match=r"Of this generator's 32 rows, 4 to 28 are the picture"):
        train_encoder(encoder_config(tmp_path / "base", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_alignment_beside_parts_comes_to_the_pipeline(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    write_parts_settings(tmp_path / "base", {"alignment": {"rule": "ffhq"}, "feature_edit": "official"})
    model = train_encoder(encoder_config(tmp_path / "base", tmp_path / "encoder", steps=1))
    values = {"data": str(base / "images.zip"), "model": str(model), "output": str(tmp_path / "run"), "steps": 1}
    settings = CompensationTrainingConfig(**values, batch_size=2, validation_images=4, **TRAINED_COMPENSATION)
    pipe = SDICPipeline.from_pretrained(train_compensation(settings))
    assert pipe.config.alignment["rule"] == "ffhq" and pipe.config.feature_edit == "official"


def test_notices_of_the_models_built_on_go_along(base, tmp_path):
    """Of parts, of a whole pipeline, and of another model whose DIPN is taken; each once."""
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "NOTICE.md").write_text("Photos of A.\n", encoding="utf-8")
    model = train_encoder(encoder_config(tmp_path / "base", tmp_path / "encoder", steps=1))
    assert (model / "NOTICE.md").read_text(encoding="utf-8") == "Photos of A.\n"
    values = {"data": str(base / "images.zip"), "model": str(model), "steps": 1, "batch_size": 2}
    values |= {"validation_images": 4, **TRAINED_COMPENSATION}
    first = train_compensation(CompensationTrainingConfig(**values, output=str(tmp_path / "first")))
    assert SDICPipeline.from_pretrained(first).notice == "Photos of A.\n"
    (first / "NOTICE.md").write_text("Photos of A.\n\nPhotos of B.\n", encoding="utf-8")
    second = train_compensation(CompensationTrainingConfig(**values, dipn=str(first), output=str(tmp_path / "second")))
    assert (second / "NOTICE.md").read_text(encoding="utf-8") == "Photos of A.\n\nPhotos of B.\n"


def test_full_precision_reaches_networks_that_accelerate_wrapped():
    torch.manual_seed(0)
    judge, latents = LatentDiscriminator(16), torch.randn(8, 16)
    wanted = r1_penalty(judge, latents)
    wrapped = judge.forward

    def autocast(x):
        with torch.autocast("cpu", torch.bfloat16):
            return wrapped(x)

    judge._original_forward, judge.forward = judge.forward, autocast  # as Accelerator.prepare does
    assert not torch.equal(r1_penalty(judge, latents), wanted)
    with in_full_precision(judge, latents):
        assert torch.equal(r1_penalty(judge, latents), wanted)
    assert judge.forward is autocast


def test_other_steps_are_warned_of_while_offsets_join(base, tmp_path):
    settings = {"progressive_until": 1.0, "decay_from": 1.0}
    train_encoder(encoder_config(base, tmp_path, steps=2, **settings))
    with pytest.warns(UserWarning, match="before all of the encoder's offsets had joined"):
        train_encoder(encoder_config(base, tmp_path, steps=6, **settings))


def test_killed_run_resumes_to_the_same_weights(base, tmp_path, monkeypatch):
    adversarial = {"adversarial_weight": 0.1}
    train_encoder(encoder_config(base, tmp_path / "whole", **adversarial))
    real_replace = os.replace

    def die_on_second(source, target):
        if Path(target).name == "step_00000004":
            raise KeyboardInterrupt
        real_replace(source, target)

    # The process dies in the middle of writing its second checkpoint.
    monkeypatch.setattr(os, "replace", die_on_second)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(encoder_config(base, tmp_path / "killed", **adversarial))
    monkeypatch.undo()
    assert [p.name for p in sorted((tmp_path / "killed/checkpoints").glob("step_????????"))] == ["step_00000002"]
    train_encoder(encoder_config(base, tmp_path / "killed", **adversarial))
    whole, killed = weights(tmp_path / "whole/model/encoder"), weights(tmp_path / "killed/model/encoder")
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


def test_checkpoints_rotate(base, tmp_path):
    train_encoder(encoder_config(base, tmp_path, keep_checkpoints=2))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000004", "step_00000006"]


def test_compensation_starts_at_the_initial_reconstruction_and_learns(base, tmp_path):
    train_encoder(encoder_config(base, tmp_path / "encoder_run"))
    config = CompensationTrainingConfig(
        data=str(base / "images.zip"),
        model=str(tmp_path / "encoder_run"),
        output=str(tmp_path / "run"),
        steps=40,
        batch_size=4,
        learning_rate=3e-3,
        ema_decay=0.5,
        change_weight=0.0,
        discrepancy_weight=0.1,
        log_every=1,
        sample_every=40,
        **TRAINED_COMPENSATION,
    )
    folder = train_compensation(config)
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    pixel = [line["pixel"] for line in log if "pixel" in line]
    assert np.mean(pixel[-5:]) < 0.8 * np.mean(pixel[:5])
    final = log[-1]
    assert final["validation_psnr"] > final["validation_psnr_initial"] + 0.5
    pipe = SDICPipeline.from_pretrained(folder)
    card = (folder / "README.md").read_text()
    assert "| inversion |" in card and str(tmp_path) not in card
    assert "(curves.png)" in card and Image.open(folder / "curves.png").width == 1100
    assert not [path for path in folder.rglob("*.json") if str(tmp_path) in path.read_text()]
    assert len(pipe.invert(load_images(base / "images.zip", 32)[:2])) == 2


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
def test_stages_train_in_half_precision_as_in_float32(base, tmp_path, precision):
    """Losses of every step, additions to the compensation's included, and weights that stay finite."""
    additions = {"edit_transfer_weight": 0.04, "synthetic_edit_weight": 0.04, "cycle_weight": 0.1}
    additions |= {"adversarial_weight": 0.01, "discrepancy_weight": 0.1, "misalignment": 0.03}
    losses = {}
    for mixed_precision in ("no", precision):
        folder = tmp_path / mixed_precision
        shared = {"mixed_precision": mixed_precision, "log_every": 1, "batch_size": 4}
        train_encoder(encoder_config(base, folder / "encoder", adversarial_weight=0.1, **shared))
        config = CompensationTrainingConfig(
            data=str(base / "images.zip"),
            model=str(folder / "encoder"),
            output=str(folder / "run"),
            steps=4,
            **shared,
            **additions,
            **TRAINED_COMPENSATION,
        )
        model = train_compensation(config)
        for name in ("encoder", "dipn", "dicn"):
            assert all(torch.isfinite(tensor).all() for tensor in weights(model / name).values()), name
        logs = [(folder / run / "log.jsonl").read_text().splitlines() for run in ("encoder", "run")]
        steps = [[json.loads(line) for line in log if '"pixel"' in line] for log in logs]
        losses[mixed_precision] = [[line["pixel"] for line in log] for log in steps]
    for found, wanted in zip(losses[precision], losses["no"], strict=True):
        assert len(found) in (4, 6) and found != wanted
        np.testing.assert_allclose(found, wanted, rtol=0.05)


def test_missing_component_says_what_to_give(base, tmp_path):
    with pytest.raises(SDICError, match=r"no 'generator' component"):
        train_encoder(encoder_config(base, tmp_path, model=str(tmp_path)))


def test_loss_that_is_not_finite_stops_the_run(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base/generator/diffusion_pytorch_model.safetensors"
    save_file({key: value * 1e30 if value.ndim == 4 else value for key, value in load_file(path).items()}, path)
    with pytest.raises(SDICError, match=r"(loss|gradient of encoder) became"):
        train_encoder(encoder_config(tmp_path / "base", tmp_path / "run"))


def test_every_image_comes_once_per_epoch():
    drawn = torch.cat([batch_indices(10, 4, seed=3, step=step) for step in range(5)])
    assert sorted(drawn[:10].tolist()) == list(range(10)) == sorted(drawn[10:].tolist())
    assert drawn[:10].tolist() != drawn[10:].tolist()
    assert batch_indices(3, 8, seed=0, step=0).shape == (8,)


def test_flips_depend_on_the_step_alone():
    images = torch.arange(64.0).reshape(16, 1, 1, 4)
    first, again = (flip(images, draw_flips(16, step_rng(1, 7))) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, flip(images, draw_flips(16, step_rng(1, 8))))
    assert torch.equal(first.sort(dim=3).values, images.sort(dim=3).values)


def test_unreadable_files_are_reported_and_skipped(tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"<html>not a picture</html>")
    with pytest.warns(UserWarning, match=r"1 files were skipped: b\.png"):
        assert load_images(tmp_path, 32).shape == (1, 3, 32, 32)
    (tmp_path / "a.png").unlink()
    with pytest.warns(UserWarning), pytest.raises(SDICError, match="no readable image"):
        load_images(tmp_path, 32)
    with pytest.raises(SDICError, match="neither a folder nor a zip"):
        load_images(tmp_path / "b.png", 32)


def test_perceptual_loss_is_a_distance():
    torch.manual_seed(0)
    loss = PerceptualLoss(StyleGAN2Discriminator(resolution=32, channels=CHANNELS))
    a, b = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    assert loss(a, a).item() == pytest.approx(0, abs=1e-6)
    assert loss(a, b) > loss(a, a + 0.05 * (b - a)) > 0


def test_latent_discriminator_learns_to_tell_styles_apart():
    torch.manual_seed(0)
    discriminator = LatentDiscriminator(8)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-2)
    for _ in range(60):
        loss = penalized_discriminator_loss(
            discriminator, torch.randn(32, 8) + 1, torch.randn(32, 8) - 1, r1_weight=0.1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert discriminator(torch.ones(1, 8)) > discriminator(-torch.ones(1, 8)) + 1


def test_offset_norm_and_progressive_offsets():
    latents = torch.zeros(2, 4, 3)
    latents[:, 2] = torch.tensor([3.0, 0.0, 4.0])
    assert offset_norm(latents).item() == pytest.approx(5 / 3)
    config = EncoderTrainingConfig(data="x", output="y", progressive_from=0.1, progressive_until=0.5)
    counts = [active_offsets(progress, config, 10) for progress in (0.0, 0.1, 0.3, 0.5, 1.0)]
    assert counts == [0, 1, 5, 9, 9]


def test_learning_rate_warms_up_and_decays():
    config = EncoderTrainingConfig(data="x", output="y", steps=1000, learning_rate=1.0, decay_from=0.5)
    rates = [learning_rate_at(step, config) for step in (0, 99, 400, 750, 999)]
    assert rates == pytest.approx([0.01, 1.0, 1.0, 0.5, 0.002])


def test_settings_from_toml_and_assignments(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('data = "a"\noutput = "b"\nsteps = 7\nstage_units = [1, 1, 1, 1]\n')
    config = load_config(EncoderTrainingConfig, path, ["steps=9", "model=some/folder", "learning_rate=1e-4"])
    assert (config.steps, config.model, config.learning_rate) == (9, "some/folder", 1e-4)
    assert config.stage_units == [1, 1, 1, 1]


def test_recipes_of_the_package_are_found_by_name():
    config = load_config(CompensationTrainingConfig, "cats64_compensation", ["data=a", "output=b"])
    assert config.matching_channels == 8


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["data=a"], "incomplete"),
        (["data=a", "output=b", "stepz=3"], r"\['stepz'\] are unknown"),
        (["data=a", "output=b", "steps=0"], "steps is 0"),
        (["data=a", "output=b", "mixed_precision=int8"], "mixed_precision"),
        (["data=a", "output=b", "ema_decay=2"], "ema_decay"),
        (["data=a", "output=b", "learning_rate=-1"], "learning_rate"),
        (["data=a", "output=b", "steps"], "has no value"),
    ],
)
def test_wrong_settings_are_named(assignments, message):
    with pytest.raises(SDICError, match=message):
        load_config(EncoderTrainingConfig, None, assignments)
