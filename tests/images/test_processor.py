"""Pictures of every kind in, [-1, 1] tensors out, and back; every message for what cannot be read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdic_plugin.errors import ImageError, SDICError
from sdic_plugin.images import reading
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.images.reading import load_image


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth picture, 12 x 16, with different channels."""
    y, x = np.mgrid[0:12, 0:16]
    return np.stack([x * 16, y * 20, 255 - x * 8 - y * 8], axis=-1).astype(np.uint8)


@pytest.fixture
def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels)


@pytest.fixture
def processor() -> SDICImageProcessor:
    return SDICImageProcessor(12, 16)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


# ---------------------------------------------------------------- load_image


def test_path_bytes_and_picture_give_the_same(tmp_path: Path, picture, pixels):
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(picture))
    for source in (path, str(path), path.read_bytes(), picture):
        image = load_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_given_picture_is_not_the_returned_one(picture):
    image = load_image(picture)
    image.putpixel((0, 0), (9, 9, 9))
    assert picture.getpixel((0, 0)) != (9, 9, 9)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_rotation_is_applied(picture, pixels, orientation, kind):
    undo = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(Image.fromarray(np.ascontiguousarray(undo)), kind, exif=exif)
    np.testing.assert_array_equal(np.asarray(load_image(stored)), pixels)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_stop_the_picture(picture, pixels):
    stored = encoded(picture, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01\x12\x00\x03")
    np.testing.assert_array_equal(np.asarray(load_image(stored)), pixels)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_transparent_is_white_and_opaque_keeps_its_colour(mode):
    colour = Image.new("RGBA", (4, 2), (90, 90, 90, 255))
    colour.paste((90, 90, 90, 0), (0, 0, 2, 2))
    image = load_image(colour.convert(mode))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((3, 1)) == (90, 90, 90)


def test_half_transparent_is_half_white():
    assert load_image(Image.new("RGBA", (1, 1), (55, 155, 255, 51))).getpixel((0, 0)) == (215, 235, 255)


def test_palette_with_transparent_entry_is_white_there():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    loaded = load_image(encoded(image, "PNG", transparency=0))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 100, 50)]


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_becomes_rgb(mode):
    image = load_image(Image.new(mode, (3, 2), 255))
    assert image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_file_is_scaled_not_clipped(kind):
    values = np.array([[0, 257, 32768, 65535, 128, 129]], np.uint16)
    loaded = load_image(encoded(Image.fromarray(values), kind))
    assert np.asarray(loaded)[0, :, 0].tolist() == [0, 1, 128, 255, 0, 1]


def test_32_bit_integer_mode_is_read_as_16_bit():
    values = np.array([[0, 32768, 65535]], np.int32)
    assert np.asarray(load_image(Image.fromarray(values)))[0, :, 1].tolist() == [0, 128, 255]
    with pytest.raises(ImageError, match=r"integer pixels in \[0, 70000\]"):
        load_image(Image.fromarray(np.array([[0, 70000]], np.int32)))


def test_cmyk_becomes_rgb():
    stored = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    red, green, blue = load_image(stored).getpixel((4, 4))
    assert red > 245
    assert max(green, blue) < 10


@pytest.mark.parametrize(("mode", "kept"), [("RGB", True), ("P", True), ("L", False), ("CMYK", False)])
def test_a_colour_profile_is_kept_only_where_it_is_for_rgb(tmp_path: Path, picture, mode, kept):
    kind = "PNG" if mode == "P" else "JPEG"
    picture.convert(mode).save(tmp_path / "photo", format=kind, icc_profile=b"a profile")
    assert ("icc_profile" in load_image(tmp_path / "photo").info) == kept
    source = Image.open(tmp_path / "photo")
    assert ("icc_profile" in load_image(source).info) == kept
    assert source.info["icc_profile"] == b"a profile"


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    stored = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(stored)).n_frames == 2
    assert load_image(stored).getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\n<!DOCTYPE html><html>not found</html>", r"web page \(HTML\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-lfs pointer"),
        (b"this is no picture at all", "no picture format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n", "no picture format"),
    ],
)
def test_not_a_picture_names_the_file_and_the_reason(tmp_path: Path, content, reason):
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"cat.jpg.*{reason}"):
        load_image(path)
    with pytest.raises(ImageError, match=f"given file content.*{reason}"):
        load_image(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_truncated_file(tmp_path: Path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    stored = encoded(noise, kind)
    path = tmp_path / "half.img"
    path.write_bytes(stored[: len(stored) // 2])
    with pytest.raises(ImageError, match=r"half\.img"):
        load_image(path)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere.png", "no such file"),
        ("https://example.org/cat.png", "web address"),
        (".", "is a folder"),
        ("nul\0.png", "null byte"),
    ],
)
def test_unreadable_path(source, reason):
    with pytest.raises(ImageError, match=reason):
        load_image(source)


def test_something_else_is_refused():
    with pytest.raises(ImageError, match="A dict was given"):
        load_image({})


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10001, 10000), (50000, 50000)])
def test_bomb_is_refused_from_its_header(size, monkeypatch):
    bomb = bytearray(encoded(Image.new("1", (8, 8))))
    bomb[16:24] = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big")
    bomb[29:33] = __import__("zlib").crc32(bomb[12:29]).to_bytes(4, "big")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the pixels were decoded"))
    with pytest.raises(ImageError, match="pixels and at most 100,000,000"):
        load_image(bytes(bomb))


def test_limit_counts_pixels(monkeypatch, picture):
    monkeypatch.setattr(reading, "MAX_PIXELS", 12 * 16)
    assert load_image(encoded(picture)).size == (16, 12)
    monkeypatch.setattr(reading, "MAX_PIXELS", 12 * 16 - 1)
    with pytest.raises(ImageError, match="has 16 x 12 pixels and at most 191"):
        load_image(encoded(picture))


@pytest.mark.parametrize(("mode", "words"), [("F", "mode F"), ("La", "mode La, which cannot become RGB")])
def test_mode_without_a_defined_meaning_is_refused(mode, words):
    with pytest.raises(ImageError, match=words):
        load_image(Image.new(mode, (2, 2)))


# ---------------------------------------------------------------- preprocess


def test_range_is_minus_one_to_one(processor):
    tensor = processor.preprocess(Image.fromarray(np.array([[0, 255]] * 12, np.uint8).repeat(8, axis=1)))
    assert tensor.shape == (1, 3, 12, 16)
    assert tensor.dtype == torch.float32
    assert tensor.min() == -1
    assert tensor.max() == 1


def test_every_byte_survives_the_round_trip():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([values, values.T, 255 - values], axis=-1)
    processor = SDICImageProcessor(16, 16)
    (image,) = processor.postprocess(processor.preprocess(Image.fromarray(pixels)), "pil")
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_every_kind_of_input_gives_the_same_tensor(tmp_path: Path, processor, picture, pixels):
    path = tmp_path / "cat.png"
    picture.save(path)
    unit = pixels.astype(np.float32) / 255
    first = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = {
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "uint8 array": pixels,
        "read-only array": np.broadcast_to(pixels, (1, *pixels.shape)),
        "flipped strides": pixels[:, ::-1][:, ::-1],
        "float array": unit,
        "float64 array": unit.astype(np.float64),
        "big-endian array": unit.astype(">f4"),
        "uint16 array": pixels.astype(np.uint16) * 257,
        "array batch": pixels[None],
        "RGBA array": np.dstack([pixels, np.full((12, 16), 255, np.uint8)]),
        "float RGBA array": np.dstack([unit, np.ones((12, 16), np.float32)]),
        "uint8 tensor": first,
        "float tensor": first / 255,
        "tensor batch": first[None] / 255,
    }
    expected = processor.preprocess(picture)
    for kind, image in kinds.items():
        torch.testing.assert_close(processor.preprocess(image), expected, rtol=0, atol=2e-7, msg=kind)


def test_half_precision_tensor_is_not_resized_in_half_precision(picture):
    processor = SDICImageProcessor(6, 8)
    tensor = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255
    half = processor.preprocess(tensor.bfloat16())
    torch.testing.assert_close(half, processor.preprocess(tensor.bfloat16().float()), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grey_arrays_and_tensors(processor, dtype):
    grey = np.full((12, 16), 1 if dtype == np.float32 else 255, dtype)
    for image in (grey, grey[..., None], torch.from_numpy(grey)[None]):
        assert torch.equal(processor.preprocess(image), torch.ones(1, 3, 12, 16))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_alpha_of_arrays_is_composited_on_white(processor, dtype):
    image = np.zeros((12, 16, 4), dtype)
    image[:, 8:, 3] = 1 if dtype == np.float32 else 255
    tensor = processor.preprocess(image)
    assert (tensor[..., :8] == 1).all()
    assert (tensor[..., 8:] == -1).all()


def test_list_of_mixed_kinds_and_sizes_equals_singles(processor, picture, pixels):
    images = [picture.resize((40, 30)), pixels, pixels.astype(np.float32)[:6] / 255, torch.rand(2, 3, 24, 32)]
    batch = processor.preprocess(images)
    assert batch.shape == (5, 3, 12, 16)
    assert torch.equal(batch, torch.cat([processor.preprocess(image) for image in images]))


def test_float_input_is_not_quantised(processor):
    values = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(processor.preprocess(values), values * 2 - 1)
    array = np.linspace(0, 1, 12 * 16, dtype=np.uint16).reshape(12, 16)  # 16-bit too
    array[0, 0] = 100
    assert processor.preprocess(array)[0, 0, 0, 0].item() == pytest.approx(200 / 65535 - 1, abs=1e-7)


@pytest.mark.parametrize("as_float", [False, True])
def test_other_aspect_is_cropped_about_the_centre(as_float):
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255  # the centre square is white
    tensor = SDICImageProcessor(10, 10).preprocess(image.astype(np.float32) / 255 if as_float else image)
    assert torch.equal(tensor, torch.ones(1, 3, 10, 10))
    upright = np.ascontiguousarray(image.transpose(1, 0, 2))
    assert torch.equal(SDICImageProcessor(10, 10).preprocess(upright), torch.ones(1, 3, 10, 10))


def test_aspect_of_the_model_is_kept():
    image = np.zeros((192, 256), np.uint8)
    image[96:] = 255
    tensor = SDICImageProcessor(48, 64).preprocess(image)
    assert (tensor[:, :, :20] == -1).all()
    assert (tensor[:, :, 28:] == 1).all()


@pytest.mark.parametrize("as_float", [False, True])
def test_shrinking_does_not_alias(as_float):
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    tensor = SDICImageProcessor(16, 16).preprocess(board.astype(np.float32) / 255 if as_float else board)
    assert tensor.abs().max() < 0.02


def test_float_resize_stays_in_range():
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    tensor = SDICImageProcessor(32, 32).preprocess(edge)
    assert tensor.min() == -1
    assert tensor.max() == 1


def test_gradient_reaches_a_float_tensor(processor):
    image = torch.rand(1, 3, 24, 32, requires_grad=True)
    processor.preprocess(image).sum().backward()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("low", "high", "remedy"),
    [(-1.0, 1.0, r"\[-1, 1\] and \[0, 1\] is needed.*x / 2"), (0.0, 255.0, "x / 255"), (-7.0, 3.0, "rescale")],
)
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_float_out_of_range(processor, kind, low, high, remedy):
    values = np.full((12, 16, 3), high, np.float32)
    values[0, 0, 0] = low
    image = values if kind == "array" else torch.from_numpy(values).permute(2, 0, 1)
    with pytest.raises(ImageError, match=remedy):
        processor.preprocess(image)


def test_float_within_tolerance_is_clamped(processor):
    assert processor.preprocess(torch.full((3, 12, 16), 1.0005)).max() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number(processor, value):
    image = torch.zeros(3, 12, 16)
    image[1, 2, 3] = value
    with pytest.raises(ImageError, match="NaN or infinite"):
        processor.preprocess(image)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((3, 12, 16), np.uint8), r"\[3, 12, 16\] and an array \[H, W\]"),
        (np.zeros((12, 16, 2), np.float32), r"\[12, 16, 2\]"),
        (np.zeros(5, np.uint8), r"\[5\]"),
        (np.zeros((0, 16, 3), np.uint8), r"\[0, 16, 3\]"),
        (np.zeros((1, 1, 12, 16, 3), np.uint8), r"\[1, 1, 12, 16, 3\]"),
        (torch.zeros(12, 16, 3), r"\[12, 16, 3\] and a tensor \[3, H, W\]"),
        (torch.zeros(12, 16), r"\[12, 16\]"),
        (torch.zeros(2, 12, 16, 3), r"\[2, 12, 16, 3\]"),
        (np.zeros((12, 16, 3), np.int64), "type torch.int64 and uint8"),
        (np.zeros((12, 16, 3), bool), "type torch.bool"),
        (np.zeros((12, 16, 3), object), "type object"),
        (torch.zeros(3, 12, 16, dtype=torch.complex64), "type torch.complex64"),
        ([], "list of pictures is empty"),
        (3, "A int was given"),
        (None, "A NoneType was given"),
    ],
)
def test_wrong_shape_or_type(processor, image, words):
    with pytest.raises(ImageError, match=words):
        processor.preprocess(image)


def test_message_says_which_picture_of_a_list(processor, picture):
    with pytest.raises(ImageError, match="Picture 2 of 3"):
        processor.preprocess([picture, np.zeros((2, 2, 7), np.uint8), picture])


def test_size_must_be_positive():
    with pytest.raises(SDICError, match="0 x 4"):
        SDICImageProcessor(0, 4)


# ---------------------------------------------------------------- postprocess


def test_output_types(processor):
    images = torch.tensor([-3.0, -1, 0, 1, 3]).repeat(12).reshape(1, 1, 3, 20).expand(2, 3, 3, 20)
    expected = ((images / 2) + 0.5).clamp(0, 1)
    assert torch.equal(processor.postprocess(images, "pt"), expected)
    array = processor.postprocess(images, "np")
    assert array.shape == (2, 3, 20, 3)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected.permute(0, 2, 3, 1).numpy())
    pictures = processor.postprocess(images)
    assert [picture.size for picture in pictures] == [(20, 3)] * 2
    assert [pictures[1].getpixel((x, 0)) for x in (0, 1, 3, 4)] == [(0,) * 3, (0,) * 3, (255,) * 3, (255,) * 3]


def test_pil_rounds(processor):
    value = (99.6 / 255) * 2 - 1
    assert processor.postprocess(torch.full((1, 3, 1, 1), value))[0].getpixel((0, 0)) == (100, 100, 100)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types(processor, dtype):
    images = torch.tensor([0.25]).to(dtype).expand(1, 3, 2, 2)
    assert processor.postprocess(images, "pt").dtype == torch.float32
    assert processor.postprocess(images, "np")[0, 0, 0, 0] == 0.625


def test_postprocess_errors(processor):
    good = torch.zeros(1, 3, 2, 2)
    with pytest.raises(SDICError, match="'jpeg' is not known; use one of pil, np, pt"):
        processor.postprocess(good, "jpeg")
    with pytest.raises(ImageError, match=r"\[3, 2, 2\]"):
        processor.postprocess(good[0])
    with pytest.raises(ImageError, match="NaN"):
        processor.postprocess(good * float("nan"))


# ---------------------------------------------------------------- preprocess_mask


def test_mask_kinds_agree(tmp_path: Path):
    values = np.zeros((8, 8), bool)
    values[:, 4:] = True
    path = tmp_path / "mask.png"
    Image.fromarray(values).save(path)
    kinds = [
        path,
        Image.fromarray(values),
        Image.fromarray(values.astype(np.uint8) * 255).convert("RGB"),
        values,
        values[..., None],
        values.astype(np.uint8) * 255,
        values.astype(np.float64),
        torch.from_numpy(values),
        torch.from_numpy(values)[None].half(),
        torch.from_numpy(values)[None, None].float(),
    ]
    expected = torch.from_numpy(values).float()[None, None]
    for mask in kinds:
        assert torch.equal(SDICImageProcessor.preprocess_mask(mask, 8, 8, 3), expected)


def test_mask_is_cropped_and_resized_like_a_picture():
    values = np.zeros((64, 128), np.float32)
    values[:, 32:96] = 1
    assert torch.equal(SDICImageProcessor.preprocess_mask(values, 16, 16, 1), torch.ones(1, 1, 16, 16))


def test_one_mask_per_picture():
    batch = np.stack([np.zeros((8, 8), np.float32), np.ones((8, 8), np.float32)])
    expected = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    for mask in (batch, batch[..., None], torch.from_numpy(batch), torch.from_numpy(batch)[:, None], list(batch)):
        assert torch.equal(SDICImageProcessor.preprocess_mask(mask, 4, 4, 2), expected)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((3, 8, 8), bool), r"3 masks \(shape \[3, 8, 8\]\) were given for 2 pictures"),
        ([np.zeros((8, 8), bool)] * 3, "3 masks were given for 2 pictures"),
        ([], "list of masks is empty"),
        (np.zeros((2, 8, 8, 3), np.float32), r"shape \[2, 8, 8, 3\]"),
        (torch.zeros(2, 3, 8, 8), r"shape \[2, 3, 8, 8\]"),
        (torch.zeros(8), r"shape \[8\]"),
        (np.zeros((8, 8), np.int64), "type torch.int64"),
        (np.full((8, 8), 2.0), r"float in \[2, 2\]"),
        (np.full((8, 8), np.nan), "NaN"),
        (np.eye(8, dtype=np.uint8), "values 0 and 1 only"),
        ("nowhere.png", "no such file"),
    ],
)
def test_mask_errors(mask, words):
    with pytest.raises(ImageError, match=words):
        SDICImageProcessor.preprocess_mask(mask, 8, 8, 2)


@pytest.mark.parametrize(("size", "target"), [((90, 70), (16, 16)), ((40, 300), (64, 32)), ((64, 99), (64, 64))])
def test_large_pictures_are_resized_strip_by_strip_to_the_same_pixels(monkeypatch, size, target):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    expected = SDICImageProcessor(*target).preprocess(picture)
    monkeypatch.setattr("sdic_plugin.images.processor.STRIP_PIXELS", 500)
    assert torch.equal(SDICImageProcessor(*target).preprocess(picture), expected)
