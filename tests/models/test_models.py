from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from testing.tiny_models import CONFIGS, example_inputs, make_model

from sdic_plugin import DICN, DIPN, E4EEncoder, SDICError, StyleGAN2Generator
from sdic_plugin.models.dicn import condition_rows, feature_rows
from sdic_plugin.models.discriminator import minibatch_deviation

GOLDEN = Path(__file__).parents[1] / "golden" / "state_dict_keys.json"
MODELS = list(CONFIGS)


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found.detach().float() - wanted.detach().float()).norm() / wanted.detach().float().norm())


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outputs(name: str, model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    found = model(*inputs)
    return [found] if isinstance(found, torch.Tensor) else list(found.to_tuple())


SHAPES = {
    "generator": [(2, 3, 64, 64), (2, 10, 8, 8), (2, 3, 4, 4)],
    "encoder": [(2, 10, 16)],
    "dipn": [(2, 3, 32, 32)],
    "dicn": [(2, 10, 8, 8), (2, 10, 16)],
    "discriminator": [(2, 1)],
    "transport": [(2, 10, 8, 8)],
}
# What comes out in float32 whatever the weights are: images, latents, scores.
FULL_PRECISION = {"generator": [True, False, True], "encoder": [True], "dipn": [False], "dicn": [False, True]}


# Every network alike.


@pytest.mark.parametrize("name", MODELS)
def test_shapes(name):
    with torch.no_grad():
        found = outputs(name, make_model(name), example_inputs(name))
    assert [tuple(tensor.shape) for tensor in found] == SHAPES[name]
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in found)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
@pytest.mark.parametrize("name", FULL_PRECISION)
def test_half_precision_is_close(name, dtype, tolerance):
    model, inputs = make_model(name), example_inputs(name)
    with torch.no_grad():
        wanted = outputs(name, model, inputs)
        model.to(dtype)
        # Features come in the generator's dtype; all else is float32.
        if name == "dicn":
            inputs = (inputs[0], inputs[1].to(dtype), inputs[2])
        found = outputs(name, model, inputs)
    assert [tensor.dtype == torch.float32 for tensor in found] == FULL_PRECISION[name]
    assert all(tensor.dtype in (torch.float32, dtype) for tensor in found)
    assert all(relative_error(one, other) < tolerance for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_receives_a_gradient(name):
    model, inputs = make_model(name), example_inputs(name, batch=4)
    if name == "generator":
        inputs = (model.broadcast(model.mapping(random(4, 16))),)
    sum((tensor * random(*tensor.shape, seed=9)).sum() for tensor in outputs(name, model, inputs)).backward()
    dead = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not dead


@pytest.mark.parametrize("name", ["generator", "encoder", "dipn", "dicn"])
def test_batch_equals_singles(name):
    model, inputs = make_model(name), example_inputs(name, batch=3)
    with torch.no_grad():
        together = outputs(name, model, inputs)
        singles = [outputs(name, model, tuple(x[i : i + 1] for x in inputs)) for i in range(3)]
    for batch, *rows in zip(together, *singles, strict=True):
        torch.testing.assert_close(batch, torch.cat(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["generator", "dicn"])
def test_dict_equals_tuple(name):
    model, inputs = make_model(name), example_inputs(name)
    with torch.no_grad():
        wanted, found = model(*inputs).to_tuple(), model(*inputs, return_dict=False)
    assert isinstance(found, tuple)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_shapes_are_the_promised_ones(name):
    """Checkpoints hold these names: a change breaks every one that was ever saved."""
    found = {key: list(tensor.shape) for key, tensor in make_model(name).state_dict().items()}
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]


CONFIG_KEYS = {
    "generator": (
        "resolution style_width mapping_layers channels channel_multiplier feature_resolution content_rows "
        "generator_id source license"
    ),
    "encoder": "image_size num_styles style_width stage_channels stage_units head_channels progressive",
    "dipn": "branch_channels matching_channels volume_channels head_channels",
    "dicn": (
        "feature_channels num_styles style_width condition_channels condition_size stem_channels strides "
        "residual_blocks residual_channels second_look_blocks second_look_channels second_looks"
    ),
    "transport": "feature_channels blocks channels",
    "discriminator": "resolution channels channel_multiplier",
}


@pytest.mark.parametrize("name", MODELS)
def test_configuration_keys_are_the_promised_ones(name):
    found = [key for key in make_model(name).config if not key.startswith("_")]
    assert sorted(found) == sorted(CONFIG_KEYS[name].split())


@pytest.mark.parametrize("name", MODELS)
def test_configuration_is_declared_as_the_constructor_takes_it(name):
    cls = type(make_model(name))
    declared = vars(sys.modules[cls.forward.__module__])[cls.__annotations__["config"]].__annotations__
    assert declared == {key: kind for key, kind in cls.__init__.__annotations__.items() if key != "return"}


def test_published_sizes_are_the_defaults():
    with torch.device("meta"):
        generator, encoder, dicn = StyleGAN2Generator(), E4EEncoder(), DICN()
        DIPN()
    assert generator.num_styles == encoder.config.num_styles == dicn.config.num_styles == 18
    assert generator.feature_channels == dicn.config.feature_channels == 512
    assert len(generator.mapping_network.layers) == 8
    assert [len(stage) for stage in encoder.stages] == [3, 4, 14, 3]


# Encoder.


@torch.no_grad()
def test_styles_are_offsets_to_the_first_one():
    progressive, plain = make_model("encoder"), make_model("encoder", progressive=False)
    plain.load_state_dict(progressive.state_dict())
    image, average = example_inputs("encoder")[0], progressive.latent_avg
    raw = plain(image) - average
    wanted = torch.cat([raw[:, :1], raw[:, :1] + raw[:, 1:]], dim=1) + average
    torch.testing.assert_close(progressive(image), wanted)


@torch.no_grad()
@pytest.mark.parametrize("active", [0, 3, 9])
def test_progressive_training_uses_only_the_first_offsets(active):
    encoder = make_model("encoder")
    image = example_inputs("encoder")[0]
    full, found = encoder(image), encoder(image, active_offsets=active)
    assert torch.equal(found[:, : active + 1], full[:, : active + 1])
    first = full[:, :1] - encoder.latent_avg[:1]
    torch.testing.assert_close(found[:, active + 1 :], first + encoder.latent_avg[active + 1 :].expand(2, -1, -1))


@torch.no_grad()
@pytest.mark.parametrize("height", [24, 32])
def test_heads_read_the_coarse_middle_and_fine_levels(height):
    encoder, sizes = make_model("encoder"), []
    for head in encoder.heads:
        head.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[3]))
    assert encoder(random(1, 3, height, 32)).shape == (1, 10, 16)
    assert sizes == [2, 2, 2, 4, 4, 4, 4, 8, 8, 8]


@torch.no_grad()
@pytest.mark.parametrize(("image_size", "num_styles"), [(48, 10), (64, 6), (32, 4)])
def test_encoders_of_other_sizes(image_size, num_styles):
    encoder = make_model("encoder", image_size=image_size, num_styles=num_styles)
    assert encoder(random(2, 3, image_size, image_size)).shape == (2, num_styles, 16)


@pytest.mark.parametrize("image_size", [16, 40])
def test_impossible_encoders_are_refused(image_size):
    with pytest.raises(SDICError, match=f"image_size is {image_size}, but must be a multiple of 16"):
        make_model("encoder", image_size=image_size)


# DIPN.


def test_dipn_takes_any_size_divisible_by_eight():
    model = make_model("dipn")
    with torch.no_grad():
        assert model(random(1, 3, 24, 40), random(1, 3, 24, 40, seed=1)).shape == (1, 3, 24, 40)


@torch.no_grad()
def test_dipn_tells_its_two_images_apart():
    model = make_model("dipn")
    image, initial = example_inputs("dipn")
    assert relative_error(model(initial, image), model(image, initial)) > 0.01


@pytest.mark.parametrize(("image", "initial"), [((1, 3, 32, 32), (1, 3, 32, 24)), ((1, 3, 36, 32), (1, 3, 36, 32))])
def test_dipn_refuses_images_that_do_not_fit(image, initial):
    with pytest.raises(SDICError, match="divisible by 8") as error:
        make_model("dipn")(torch.zeros(image), torch.zeros(initial))
    assert str(list(image)) in str(error.value)
    assert str(list(initial)) in str(error.value)


def test_dipn_refuses_a_depth_that_cannot_be_halved_thrice():
    with pytest.raises(SDICError, match="matching_channels is 6"):
        make_model("dipn", matching_channels=6)


# DICN.


@torch.no_grad()
def test_latents_are_compensated_by_an_affine_change():
    model = make_model("dicn")
    discrepancy, features, latents = example_inputs("dicn")
    shift = model(discrepancy, features, torch.zeros_like(latents)).compensated_latents
    scale = model(discrepancy, features, torch.ones_like(latents)).compensated_latents - shift
    assert (scale - 1).abs().max() > 0.01
    found = model(discrepancy, features, latents).compensated_latents
    torch.testing.assert_close(found, scale * latents + shift, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_features_are_compensated_by_a_gated_addition():
    model = make_model("dicn")
    discrepancy, features, latents = example_inputs("dicn")
    path = model.features
    addition = path.semantic(path.stem(discrepancy))
    wanted = features + torch.sigmoid(path.attention(addition + features)) * addition
    torch.testing.assert_close(model(discrepancy, features, latents).compensated_features, wanted)
    assert relative_error(wanted, features) > 0.01


@torch.no_grad()
def test_reset_to_identity_compensates_nothing():
    model = make_model("dicn")
    model.reset_to_identity()
    discrepancy, features, latents = example_inputs("dicn")
    found = model(discrepancy, features, latents)
    assert torch.equal(found.compensated_features, features)
    assert torch.equal(found.compensated_latents, latents)


@torch.no_grad()
def test_rows_without_a_picture_stay_as_they_are():
    model = make_model("dicn")
    _, features, latents = example_inputs("dicn")
    found = model(random(2, 3, 24, 32), features, latents, first_row=1).compensated_features
    changed = (found != features).any(dim=3).any(dim=1)
    assert changed.tolist() == [[False, True, True, True, True, True, True, False]] * 2


@pytest.mark.parametrize(("size", "first_row"), [((32, 24), 0), ((40, 32), 0), ((32, 32), 1)])
def test_dicn_refuses_a_discrepancy_that_does_not_fit(size, first_row):
    _, features, latents = example_inputs("dicn")
    with pytest.raises(SDICError, match="4 times as wide") as error:
        make_model("dicn")(torch.zeros(2, 3, *size), features, latents, first_row=first_row)
    assert str([2, 3, *size]) in str(error.value)
    assert "[2, 10, 8, 8]" in str(error.value)


def test_condition_rows_divide_evenly_or_are_refused():
    assert condition_rows(18, 64, 512) == 144
    assert condition_rows(18, 64, 256) == 288
    for channels, size, width in [(3, 8, 16 * 4), (1, 4, 16), (4, 8, 24)]:
        with pytest.raises(SDICError, match=f"style width {width}"):
            condition_rows(channels, size, width)


def test_content_rows_on_the_feature_map():
    assert feature_rows(None, 512, 64) == (0, 64)
    assert feature_rows([64, 448], 512, 64) == (8, 56)


# Discriminator.


@torch.no_grad()
def test_discriminator_features_halve_from_block_to_block():
    found = make_model("discriminator").features(random(2, 3, 32, 32))
    assert [tuple(tensor.shape[1:]) for tensor in found] == [(8, 16, 16), (10, 8, 8), (12, 4, 4)]


SECOND_DERIVATIVE = """
import torch
from sdic_plugin.models import StyleGAN2Discriminator

network = StyleGAN2Discriminator(64, {str(size): 16 for size in (4, 8, 16, 32, 64)})
images = torch.randn(128, 3, 64, 64, requires_grad=True)
with torch.autocast("cpu", torch.bfloat16):
    scores = network(images)
slope, = torch.autograd.grad(scores.sum(), images, create_graph=True)
slope.square().sum().backward()
assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
"""


def test_bfloat16_survives_a_batch_that_ends_onednn():
    """In a process of its own: what is avoided here is a crash, on CPUs with AMX."""
    subprocess.run([sys.executable, "-c", SECOND_DERIVATIVE], check=True)


def test_minibatch_deviation_is_over_groups_of_four():
    x = random(8, 3, 2, 2)
    found = minibatch_deviation(x)
    for i in range(8):
        # rosinality's grouping: image i belongs to the group of images i % 2.
        group = x[i % 2 :: 2]
        wanted = (group.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(found[i], wanted.expand(1, 2, 2))
    assert minibatch_deviation(random(6, 3, 2, 2)).shape == (6, 1, 2, 2)
    assert minibatch_deviation(random(3, 3, 2, 2)).unique().numel() == 1


def test_dicn_of_a_nearer_hook_reduces_by_its_strides():
    dicn = DICN(10, 4, 16, condition_channels=2, condition_size=8, strides=[1, 2])
    features, latents = random(2, 10, 16, 16), random(2, 4, 16)
    assert dicn.reduction == 2
    assert dicn(random(2, 3, 32, 32), features, latents).compensated_features.shape == (2, 10, 16, 16)
    with pytest.raises(SDICError, match=r"strides are \[4, 1\]"):
        DICN(strides=[4, 1])
