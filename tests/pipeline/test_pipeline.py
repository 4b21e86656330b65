from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from testing.tiny_models import (
    continued_features,
    count_calls,
    hook_features,
    make_model,
    make_pipeline,
    pixels,
    render,
)

from sdic_plugin import CheckpointError, DirectionEdit, EditError, ImageError, SDICError, SDICPipeline

# Pictures in.


def test_every_kind_of_picture_is_seen_alike(pipe, photos, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photos[0]).save(path)
    wanted = torch.from_numpy(photos[:1]).permute(0, 3, 1, 2).float() / 127.5 - 1
    opaque = np.concatenate([photos[0], np.full((32, 32, 1), 255, np.uint8)], axis=2)
    same = [
        Image.fromarray(photos[0]),
        path,
        str(path),
        path.read_bytes(),
        photos[0],
        photos[:1],
        photos[0] / 255,
        torch.from_numpy(photos[0]).permute(2, 0, 1),
        torch.from_numpy(photos[0]).permute(2, 0, 1).float() / 255,
        [Image.fromarray(photos[0])],
        opaque,
        Image.fromarray(opaque),
    ]
    for image in same:
        torch.testing.assert_close(pipe.invert(image).image, wanted, rtol=0, atol=1e-6)


def test_greyscale_and_transparent_pictures(pipe, photos):
    grey = photos[0, :, :, 0]
    wanted = torch.from_numpy(grey).float()[None, None].expand(1, 3, -1, -1) / 127.5 - 1
    for image in (grey, Image.fromarray(grey)):
        torch.testing.assert_close(pipe.invert(image).image, wanted, rtol=0, atol=1e-6)
    clear = np.concatenate([photos[0], np.zeros((32, 32, 1), np.uint8)], axis=2)
    assert (pipe.invert(clear).image == 1).all()


def test_a_list_may_mix_kinds_and_sizes(pipe, photos):
    large = Image.fromarray(photos[1]).resize((96, 64))
    found = pipe.invert([photos[0], large, torch.from_numpy(photos[2]).permute(2, 0, 1)])
    assert found.image.shape == (3, 3, 32, 32)
    torch.testing.assert_close(found.image[2], pipe.invert(photos[2]).image[0], rtol=0, atol=1e-6)


def test_a_bad_picture_is_refused(pipe):
    with pytest.raises(ImageError, match=r"\[0, 255\]"):
        pipe.invert(np.full((32, 32, 3), 200.0))


def test_pictures_from_memory(pipe, photos):
    file = io.BytesIO()
    Image.fromarray(photos[0]).save(file, format="PNG")
    assert torch.equal(pipe.invert(file.getvalue()).image, pipe.invert(photos[0]).image)


# Inversion.


@torch.no_grad()
def test_inversion_follows_the_method(pipe, photos):
    found = pipe.invert(photos)
    image = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = pipe.encoder(image)
    initial, features, _ = pipe.generator(latents, return_dict=False)
    assert (initial.abs() > 1).any(), "clamping must matter here"
    small = F.interpolate(initial.clamp(-1, 1), size=(32, 32), mode="bilinear", align_corners=False)
    discrepancy = pipe.dipn(image, small)
    compensated_features, compensated_latents = pipe.dicn(discrepancy, features, latents, return_dict=False)
    wanted = {
        "image": image,
        "latents": latents,
        "initial": initial,
        "features": features,
        "discrepancy": discrepancy,
        "compensated_latents": compensated_latents,
        "compensated_features": compensated_features,
        "reference_features": hook_features(pipe, compensated_latents),
        "reference_skip_image": pipe.generator(compensated_latents).skip_image,
    }
    assert found.tensors().keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(getattr(found, name), tensor, rtol=1e-4, atol=1e-5)
    assert torch.equal(pixels(pipe, found), render(pipe, found.compensated_latents, found.compensated_features))


def test_inversion_runs_every_network_once_and_the_generator_twice(pipe, photos):
    counts = count_calls(pipe)
    pipe.invert(photos)
    assert counts == {"encoder": 1, "dipn": 1, "dicn": 1, "generator": 2}


def test_given_latents_replace_the_encoder(pipe, photos):
    counts = count_calls(pipe)
    latents = torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(0))
    found = pipe.invert(photos, latents=latents)
    assert counts["encoder"] == 0
    assert torch.equal(found.latents, latents)
    image = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 127.5 - 1
    wanted = pipe.compensate(image, latents)
    torch.testing.assert_close(found.compensated_latents, wanted.compensated_latents)
    whole = pipe(photos, latents=latents, output_type="pt").images
    torch.testing.assert_close(whole, pixels(pipe, found))
    assert counts["encoder"] == 0


def as_list(tensor: torch.Tensor) -> list:
    return tensor.tolist()


def as_float64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def as_reversed_view(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy()[..., ::-1])[..., ::-1]


@pytest.mark.parametrize("given", [as_list, as_float64, as_reversed_view])
def test_latents_of_other_tools_may_be_arrays(pipe, photos, inversion, given):
    latents = 0.5 * torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pipe.invert(photos, latents=given(latents)).latents, latents)
    assert torch.equal(pipe.with_latents(inversion, given(latents)).compensated_latents, latents)
    assert torch.equal(pipe.edited_code(inversion, latents=given(latents)), latents)
    wanted = pixels(pipe, inversion, latents=latents)
    assert torch.equal(pixels(pipe, inversion, latents=given(latents)), wanted)
    whole = pipe(photos, latents=latents, output_type="pt").images
    assert torch.equal(pipe(photos, latents=given(latents), output_type="pt").images, whole)
    with torch.no_grad():
        styles = pipe.generator.styles(latents)
    assert torch.equal(pixels(pipe, inversion, styles=[given(style) for style in styles]), wanted)


@pytest.mark.parametrize("given", ["latents.npy", {"w": 1}, [[[0.0, 1.0], [0.0]]], ["w"]])
def test_latents_that_are_no_numbers_are_refused(pipe, photos, inversion, given):
    for call in (
        lambda: pipe.invert(photos, latents=given),
        lambda: pipe.edit(inversion, latents=given),
        lambda: pipe.edit(inversion, styles=[given]),
    ):
        with pytest.raises(SDICError, match=f"are of the type {type(given).__name__}, of which no array of numbers"):
            call()
    with pytest.raises(SDICError, match="The styles are of the type int: give a list"):
        pipe.edit(inversion, styles=3)
    with pytest.raises(SDICError, match=r"The latents have shape \[10, 16\], but \[batch, 10, 16\]"):
        pipe.invert(photos, latents=np.zeros((10, 16)))


def test_batch_equals_singles(pipe, photos):
    together = pipe(photos, edits={"turn": 0.8}, output_type="pt").images
    singles = [pipe(photo, edits={"turn": 0.8}, output_type="pt").images for photo in photos]
    torch.testing.assert_close(together, torch.cat(singles), rtol=0, atol=1e-4)
    assert ((together > 0) & (together < 1)).float().mean() > 0.5, "clamping must not hide differences"


def test_smaller_batches_give_the_same(pipe, photos):
    mask = np.random.default_rng(1).random((3, 8, 8))
    options = {"edits": {"turn": [0.0, 0.5, 1.0]}, "mask": mask, "compensation": 0.8, "output_type": "pt"}
    wanted = pipe(photos, **options).images
    for size in (1, 2):
        torch.testing.assert_close(pipe(photos, batch_size=size, **options).images, wanted, rtol=0, atol=1e-4)


def test_progress_bar_on_more_than_one_batch(pipe, photos, capsys):
    pipe.set_progress_bar_config(disable=False)
    pipe.invert(photos)
    assert capsys.readouterr().err == ""
    found = pipe.invert(photos, batch_size=1)
    assert "3/3" in capsys.readouterr().err
    pipe.edit(found, batch_size=2)
    assert "2/2" in capsys.readouterr().err


# The call.


def test_call_inverts_and_edits(pipe, photos):
    options = {"edits": {"turn": 1.0}, "feature_edit": "official", "compensation": 0.7, "mask": np.full((8, 8), 0.5)}
    wanted = pipe.edit(pipe.invert(photos), output_type="np", **options).images
    assert np.array_equal(pipe(photos, output_type="np", **options).images, wanted)
    plain = pipe(photos, output_type="np").images
    assert np.array_equal(plain, pipe.edit(pipe.invert(photos), output_type="np").images)
    assert not np.allclose(plain, wanted, atol=1e-2)


def test_output_types(pipe, inversion):
    unit = pixels(pipe, inversion)
    assert unit.shape == (3, 3, 64, 64)
    assert unit.dtype == torch.float32
    assert unit.min() == 0 and unit.max() == 1, "clamped"
    array = pipe.edit(inversion, output_type="np").images
    assert np.array_equal(array, unit.permute(0, 2, 3, 1).numpy())
    pictures = pipe.edit(inversion).images
    assert [picture.size for picture in pictures] == [(64, 64)] * 3
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), (array * 255).round())
    assert torch.equal(pipe.edit(inversion, output_type="latent").images, inversion.compensated_latents)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_dict_equals_tuple(pipe, photos, output_type):
    wanted = pipe(photos, output_type=output_type).images
    found = pipe(photos, output_type=output_type, return_dict=False)
    assert isinstance(found, tuple) and len(found) == 1
    assert len(found[0]) == len(wanted) == 3
    assert all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in zip(found[0], wanted, strict=True))


def test_nothing_is_random(pipe, photos):
    wanted = pipe(photos, output_type="pt").images
    for seed in (0, 1):
        rng = torch.Generator().manual_seed(seed)
        assert torch.equal(pipe(photos, generator=rng, output_type="pt").images, wanted)


def test_offloading_gives_the_same(pipe, photos):
    wanted = pipe(photos, edits={"turn": 1.0}, output_type="pt").images
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(pipe(photos, edits={"turn": 1.0}, output_type="pt").images, wanted)
    inversion = pipe.invert(photos)
    assert torch.equal(pixels(pipe, inversion, edits={"turn": 1.0}), wanted)


def test_results_carry_no_gradient(pipe, photos):
    inversion = pipe.invert(photos)
    assert not any(tensor.requires_grad for tensor in inversion.tensors().values())
    assert not pixels(pipe, inversion).requires_grad


# Half precision.


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_is_close(pipe, photos, dtype, tolerance):
    wanted = pipe(photos, edits={"turn": 1.0}, output_type="pt").images
    pipe.to(dtype)
    inversion = pipe.invert(photos)
    assert inversion.features.dtype == inversion.compensated_features.dtype == dtype
    assert inversion.latents.dtype == inversion.compensated_latents.dtype == torch.float32
    found = pixels(pipe, inversion, edits={"turn": 1.0})
    assert found.dtype == torch.float32
    assert (found - wanted).abs().mean() < tolerance


def test_a_dtype_per_component(pipe, photos):
    wanted = pipe(photos, edits={"turn": 1.0}, output_type="pt").images
    pipe.generator.to(torch.bfloat16)
    inversion = pipe.invert(photos)
    assert inversion.compensated_features.dtype == torch.bfloat16
    assert inversion.discrepancy.dtype == torch.float32
    assert torch.equal(pixels(pipe, inversion, edits={"turn": 0.0}), pixels(pipe, inversion))
    assert (pixels(pipe, inversion, edits={"turn": 1.0}) - wanted).abs().mean() < 0.05


# Wide pictures.


@pytest.fixture
def wide() -> SDICPipeline:
    pipe = make_pipeline(content_rows=[8, 56])
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.ones(16)}))
    return pipe


@torch.no_grad()
def test_wide_pictures_follow_the_method(wide):
    assert wide.image_size == (24, 32)
    photo = np.random.default_rng(2).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    found = wide.invert(photo)
    assert found.image.shape == found.discrepancy.shape == (2, 3, 24, 32)
    assert found.initial.shape == (2, 3, 64, 64)
    initial, features, _ = wide.generator(found.latents, return_dict=False)
    small = F.interpolate(initial.clamp(-1, 1), size=(32, 32), mode="bilinear", align_corners=False)[:, :, 4:28]
    torch.testing.assert_close(found.discrepancy, wide.dipn(found.image, small))
    compensated = wide.dicn(found.discrepancy, features, found.latents, first_row=1)
    torch.testing.assert_close(found.compensated_features, compensated.compensated_features)
    # The rows above and below the picture stay as they were.
    assert torch.equal(found.compensated_features[:, :, [0, 7]], found.features[:, :, [0, 7]])
    assert (found.compensated_features[:, :, 1:7] != found.features[:, :, 1:7]).any(dim=3).all()
    rendering = wide.edit(found, output_type="pt").images
    assert rendering.shape == (2, 3, 48, 64)
    assert torch.equal(rendering, render(wide, found.compensated_latents, found.compensated_features)[:, :, 8:56])
    assert torch.equal(wide.edit(found, edits={"turn": 0.0}, output_type="pt").images, rendering)
    assert wide.edit(found).images[0].size == (64, 48)


def test_wide_mask_covers_the_picture_only(wide):
    found = wide.invert(np.zeros((24, 32, 3), np.uint8))
    edits = {"turn": 1.0}
    full = continued_features(wide, found, edits=edits)
    none = continued_features(wide, found, edits=edits, compensation=0.0)
    mask = np.zeros((6, 8))
    mask[0] = 1
    received = continued_features(wide, found, edits=edits, mask=mask)
    assert torch.equal(received[:, :, 1], full[:, :, 1])
    assert torch.equal(received[:, :, 2:7], none[:, :, 2:7])
    # Beyond the picture, the mask goes on as at its edge.
    assert torch.equal(received[:, :, 0], full[:, :, 0])
    assert torch.equal(received[:, :, 7], none[:, :, 7])
    assert not torch.equal(full[:, :, [0, 7]], none[:, :, [0, 7]])


def test_wide_photos_are_cropped_not_stretched(wide):
    square = np.zeros((32, 32, 3), np.uint8)
    square[4:28] = 255
    assert (wide.invert(square).image == 1).all()


# Wrong arguments.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edits": {"smile": 1.0}}, "'smile' is unknown; this pipeline has: colour, turn"),
        ({"edits": {"turn": [1.0, 2.0]}}, "2 strengths for 3 images"),
        ({"edits": {"turn": float("nan")}}, "strength nan"),
        ({"compensation": 1.5}, r"compensation is 1.5, but must lie in \[0, 1\]"),
        ({"compensation": float("nan")}, "compensation is nan"),
        ({"feature_edit": "both"}, "feature_edit is 'both', but must be one of 'continuous', 'official'"),
        ({"output_type": "png"}, "output_type is 'png', but must be one of 'pil', 'np', 'pt', 'latent'"),
        ({"latents": torch.zeros(3, 9, 16)}, r"shape \[3, 9, 16\], but \[batch, 10, 16\] is needed"),
        ({"latents": torch.zeros(2, 10, 16)}, "2 latents were given for 3 images"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_wrong_arguments_are_refused_by_edit_and_call(pipe, photos, options, message):
    with pytest.raises(SDICError, match=message):
        pipe.edit(pipe.invert(photos), **options)
    with pytest.raises(SDICError, match=message):
        pipe(photos, **options)


def test_other_wrong_arguments_are_refused(pipe, photos, inversion):
    with pytest.raises(SDICError, match="No image was given"):
        pipe()
    with pytest.raises(SDICError, match="latents_from is 'w', but must be one of 'compensated', 'initial'"):
        pipe.edit(inversion, latents=inversion.latents, latents_from="w")
    with pytest.raises(SDICError, match="1 latents were given for 3 images"):
        pipe.invert(photos, latents=inversion.latents[:1])
    with pytest.raises(EditError, match="none; load some"):
        make_pipeline().edit(inversion, edits={"turn": 1.0})


def test_arguments_are_checked_before_the_work(pipe, photos):
    counts = count_calls(pipe)
    with pytest.raises(SDICError):
        pipe(photos, edits={"smile": 1.0})
    assert sum(counts.values()) == 0


# Wrong components.


def test_a_component_of_the_wrong_class_is_refused(pipe):
    with pytest.raises(CheckpointError, match="'dipn' is of the class DICN, but DIPN is needed"):
        SDICPipeline(**{**pipe.components, "dipn": pipe.dicn})
    with pytest.raises(CheckpointError, match="'generator' is of the class StyleGAN2Discriminator"):
        SDICPipeline(**{**pipe.components, "generator": make_model("discriminator")})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("encoder", {"num_styles": 12}, "number of styles is 12 in the encoder, but 10 in the"),
        ("encoder", {"style_width": 8}, "style width is 8 in the encoder, but 16 in the"),
        ("encoder", {"image_size": 64}, "image_size is 64 and .* 8, but the dicn reduces sizes by 4"),
        ("dicn", {"num_styles": 12}, "number of styles is .* in the"),
        ("dicn", {"style_width": 32}, "style width is .* in the"),
        ("dicn", {"feature_channels": 12}, "number of feature channels is"),
        ("dicn", {"strides": [1, 2]}, "feature_resolution 8, but the dicn reduces sizes by 2"),
    ],
)
def test_components_that_do_not_fit_are_refused(pipe, name, changes, message):
    with pytest.raises(CheckpointError, match=message):
        SDICPipeline(**{**pipe.components, name: make_model(name, **changes)})


def test_weights_that_were_never_loaded_are_refused(pipe):
    dipn = make_model("dipn")
    dipn.original_branch.convs[0].to("meta")
    with pytest.raises(CheckpointError, match=r"'dipn' lacks \d+ weights, such as 'original_branch.convs.0"):
        SDICPipeline(**{**pipe.components, "dipn": dipn})


def test_an_unknown_default_rule_is_refused(pipe):
    with pytest.raises(SDICError, match="feature_edit is 'both'"):
        SDICPipeline(**pipe.components, feature_edit="both")
