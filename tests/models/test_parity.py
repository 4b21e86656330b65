"""The published networks' answers, through the real path: a `.pt` file, converted, loaded and run by the pipeline."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from testing import parity_weights

from sdic_plugin import SDICPipeline, StyleGAN2Generator
from sdic_plugin.conversion import convert

State = dict[str, torch.Tensor]
TIGHT, LOOSE = 1e-4, 1e-3
OPTIONS = argparse.Namespace(encoder_type="Encoder4Editing", exp_dir="/home/somebody/runs", stylegan_size=256)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def to_unit(image: torch.Tensor) -> torch.Tensor:
    return (image / 2 + 0.5).clamp(0, 1)


def published_file(path: Path, state: dict[str, torch.Tensor], latent_avg: torch.Tensor) -> Path:
    torch.save({"state_dict": state, "opts": OPTIONS, "latent_avg": latent_avg}, path)
    return path


def decoder_of(state: State) -> State:
    """The generator's part of an SDIC state dict."""
    return {key.removeprefix("decoder."): tensor for key, tensor in state.items() if key.startswith("decoder.")}


# The published networks, at 256 pixels.


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    return load_file(parity_weights.PARITY / "sdic_256.safetensors")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[SDICPipeline, State]:
    """The converted pipeline, and the state dict of its generator as it was drawn."""
    folder = tmp_path_factory.mktemp("published")
    state = parity_weights.state_dict(parity_weights.published_shapes())
    file = published_file(folder / "sdic_256.pt", state, parity_weights.latent_avg())
    convert(file, folder / "converted")
    file.unlink()
    return SDICPipeline.from_pretrained(folder / "converted"), decoder_of(state)


@pytest.fixture(scope="module")
def pipeline(published: tuple[SDICPipeline, State]) -> SDICPipeline:
    return published[0]


@pytest.fixture(scope="module")
def answers(pipeline: SDICPipeline, stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our values for every stored tensor, by its name."""
    found = pipeline.invert(to_unit(stored["image"]))
    latents = found.compensated_latents + 1.5 * parity_weights.direction()
    unclamped = pipeline.synthesize
    edit = pipeline.edit(found, latents=latents, feature_edit="official", output_type="pt").images
    with torch.no_grad():
        mapped = pipeline.generator.mapping(parity_weights.z())
        synthesis = pipeline.generator(pipeline.generator.broadcast(mapped), noise="none").image
    return {
        "image": found.image,
        "w": found.latents,
        "initial": found.initial[..., ::2, ::2],
        "g7": found.features[:, ::16, ::4, ::4],
        "discrepancy": found.discrepancy[..., ::4, ::4],
        "feature": found.compensated_features[:, ::16, ::4, ::4],
        "w_plus": found.compensated_latents,
        "inversion": pipeline.edit(found, output_type="pt").images[..., ::2, ::2],
        "edit": edit[..., ::2, ::2],
        "mapped": mapped,
        "synthesis": synthesis[..., ::2, ::2],
        "inversion, unclamped": unclamped(found.compensated_latents, found.compensated_features)[..., ::2, ::2],
        "edit, unclamped": unclamped(latents, pipeline.feature_hook(found, "official", 1.0))[..., ::2, ::2],
    }


TOLERANCES = {
    "image": TIGHT,
    "w": TIGHT,
    "initial": TIGHT,
    "g7": TIGHT,
    "mapped": TIGHT,
    "synthesis": TIGHT,
    "discrepancy": LOOSE,
    "feature": LOOSE,
    "w_plus": LOOSE,
    "inversion": LOOSE,
    "edit": LOOSE,
}


def test_every_stored_tensor_is_compared(stored):
    assert stored.keys() == TOLERANCES.keys()


@pytest.mark.parametrize("name", TOLERANCES)
def test_answers_are_the_published_ones(name, answers, stored):
    theirs = to_unit(stored[name]) if name in ("inversion", "edit") else stored[name]
    assert relative_error(answers[name], theirs) <= TOLERANCES[name]


@pytest.mark.parametrize("name", ["inversion", "edit"])
def test_unclamped_renderings_are_the_published_ones(name, answers, stored):
    assert relative_error(answers[f"{name}, unclamped"], stored[name]) <= LOOSE


def test_clamping_leaves_something_to_compare(stored):
    inside = (stored["inversion"].abs() < 1).float().mean()
    assert inside > 0.01


# Other resolutions: a plain second implementation that reads the published keys.


def upsample_filter(x: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """StyleGAN2's low-pass filter, times four, with that padding."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 64 * 4
    x = F.pad(x, (before, after, before, after))
    return F.conv2d(x, kernel.expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


def insert_zeros(x: torch.Tensor) -> torch.Tensor:
    batch, channels, height, width = x.shape
    wide = x.new_zeros(batch, channels, 2 * height, 2 * width)
    wide[:, :, ::2, ::2] = x
    return wide


def modulated_conv(
    state: dict[str, torch.Tensor],
    name: str,
    x: torch.Tensor,
    w: torch.Tensor,
    up: bool = False,
    demodulate: bool = True,
) -> torch.Tensor:
    """Modulated convolution as the paper defines it: a weight of its own for every sample, one group each."""
    weight = state[f"{name}.weight"]
    out_channels, in_channels, kernel = weight.shape[1:4]
    modulation = state[f"{name}.modulation.weight"] / math.sqrt(w.shape[1])
    style = w @ modulation.T + state[f"{name}.modulation.bias"]
    weight = weight / math.sqrt(in_channels * kernel**2) * style[:, None, :, None, None]
    if demodulate:
        weight = weight / (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    batch, _, height, width = x.shape
    if not up:
        merged = x.reshape(1, batch * in_channels, height, width)
        out = F.conv2d(merged, weight.flatten(0, 1), padding=kernel // 2, groups=batch)
        return out.reshape(batch, out_channels, height, width)
    # Transposed convolution, written out: zeros between the pixels, then correlation with the mirrored kernel.
    spread = F.pad(insert_zeros(x)[:, :, :-1, :-1], (2, 2, 2, 2)).reshape(1, batch * in_channels, 2 * height + 3, -1)
    out = F.conv2d(spread, weight.flip(3, 4).flatten(0, 1), groups=batch)
    return upsample_filter(out.reshape(batch, out_channels, 2 * height + 1, -1), 1, 1)


def styled_conv(state: State, name: str, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor, up: bool = False):
    x = modulated_conv(state, f"{name}.conv", x, w, up)
    x = x + state[f"{name}.noise.weight"] * noise + state[f"{name}.activate.bias"].reshape(1, -1, 1, 1)
    return torch.where(x > 0, x, 0.2 * x) * 2**0.5


def to_rgb(state: State, name: str, x: torch.Tensor, w: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
    rgb = modulated_conv(state, f"{name}.conv", x, w, demodulate=False) + state[f"{name}.bias"]
    return rgb if image is None else rgb + upsample_filter(insert_zeros(image), 2, 1)


def reference_synthesis(
    state: dict[str, torch.Tensor], latents: torch.Tensor, features: torch.Tensor | None = None, hook: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Render W+ latents with a rosinality state dict; returns the image and the hook's features."""
    x = state["input.input"].repeat(len(latents), 1, 1, 1)
    x = styled_conv(state, "conv1", x, latents[:, 0], state["noises.noise_0"])
    image, computed = to_rgb(state, "to_rgb1", x, latents[:, 1], None), None
    for k in range((latents.shape[1] - 2) // 2):
        noises = [state[f"noises.noise_{2 * k + i}"] for i in (1, 2)]
        x = styled_conv(state, f"convs.{2 * k}", x, latents[:, 2 * k + 1], noises[0], up=True)
        if x.shape[-1] == hook:
            computed = x
            x = x if features is None else features
        x = styled_conv(state, f"convs.{2 * k + 1}", x, latents[:, 2 * k + 2], noises[1])
        image = to_rgb(state, f"to_rgbs.{k}", x, latents[:, 2 * k + 3], image)
    return image, computed


def test_the_second_implementation_gives_the_published_image(published, answers, stored):
    with torch.no_grad():
        image, features = reference_synthesis(published[1], answers["w"])
    assert relative_error(image[..., ::2, ::2], stored["initial"]) <= TIGHT
    assert relative_error(features[:, ::16, ::4, ::4], stored["g7"]) <= TIGHT


@pytest.fixture(scope="module", params=[512, 1024])
def other(request, tmp_path_factory) -> tuple[int, dict[str, torch.Tensor], SDICPipeline, object]:
    """A narrow checkpoint of another resolution: resolution, its state dict, the loaded pipeline, an inversion."""
    resolution, folder = request.param, tmp_path_factory.mktemp("other")
    state = parity_weights.state_dict(parity_weights.narrow(parity_weights.published_shapes(resolution)))
    styles = 2 * int(math.log2(resolution)) - 2
    file = published_file(folder / "sdic.pt", state, parity_weights.latent_avg(styles, width=32))
    convert(file, folder / "converted")
    pipeline = SDICPipeline.from_pretrained(folder / "converted")
    photos = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    return resolution, state, pipeline, pipeline.invert(photos)


def test_shapes_follow_the_resolution(other):
    resolution, _, pipeline, inversion = other
    styles = {512: 16, 1024: 18}[resolution]
    assert len(pipeline.encoder.heads) == styles
    assert inversion.latents.shape == inversion.compensated_latents.shape == (2, styles, 32)
    assert inversion.initial.shape == (2, 3, resolution, resolution)
    assert inversion.features.shape == inversion.compensated_features.shape == (2, 32, 64, 64)
    assert inversion.discrepancy.shape == (2, 3, 256, 256)
    assert pipeline.edit(inversion).images[0].size == (resolution, resolution)


def test_initial_reconstruction_is_that_of_the_second_implementation(other):
    _, state, _, inversion = other
    decoder = decoder_of(state)
    image, features = reference_synthesis(decoder, inversion.latents)
    assert relative_error(inversion.initial, image) <= TIGHT
    assert relative_error(inversion.features, features) <= TIGHT


def test_inversion_is_that_of_the_second_implementation(other):
    _, state, pipeline, inversion = other
    decoder = decoder_of(state)
    image, _ = reference_synthesis(decoder, inversion.compensated_latents, inversion.compensated_features)
    ours = pipeline.edit(inversion, output_type="pt").images
    assert relative_error(ours, to_unit(image)) <= TIGHT
    assert image.std() > 0.1


def test_the_last_heads_read_the_fine_level(other):
    """Every head from the seventh on reads the fine level; a wrong level would change the latents."""
    _, state, pipeline, inversion = other
    with torch.no_grad():
        _, _, fine = pipeline.encoder.pyramid(inversion.image)
    last = len(pipeline.encoder.heads) - 1
    for i in range(6):
        weight, bias = (state[f"encoder.styles.{last}.convs.{2 * i}.{leaf}"] for leaf in ("weight", "bias"))
        fine = F.leaky_relu(F.conv2d(fine, weight, bias, stride=2, padding=1), 0.01)
    linear = state[f"encoder.styles.{last}.linear.weight"] / math.sqrt(32)
    offset = fine.flatten(1) @ linear.T + state[f"encoder.styles.{last}.linear.bias"]
    mean = parity_weights.latent_avg(last + 1, width=32)
    expected = inversion.latents[:, 0] - mean[0] + offset + mean[last]
    assert relative_error(inversion.latents[:, last], expected) <= TIGHT


@pytest.mark.slow
def test_full_size_generator_at_1024(tmp_path):
    state = parity_weights.generator_state(parity_weights.generator_shapes(1024))
    torch.save({"g_ema": state, "latent_avg": torch.zeros(512)}, tmp_path / "ffhq.pt")
    convert(tmp_path / "ffhq.pt", tmp_path / "converted")
    generator = StyleGAN2Generator.from_pretrained(tmp_path / "converted" / "generator")
    latents = torch.randn(1, 18, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image, features = reference_synthesis(state, latents)
        ours = generator(latents)
    assert relative_error(ours.image, image) <= TIGHT
    assert relative_error(ours.features, features) <= TIGHT
