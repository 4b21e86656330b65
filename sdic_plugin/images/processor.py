"""Pictures of every kind <-> tensors [B, 3, H, W] in [-1, 1]: the only place where pixel ranges change.

Ranges: PIL pictures and integer arrays use their type's full range, float arrays and tensors are in [0, 1], and the
networks see [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sdic_plugin.errors import ImageError, SDICError
from sdic_plugin.images.reading import ImageSource, load_image

STRIP_PIXELS = 4_000_000
"""Part of a large picture that is copied at a time to be resized."""
OUTPUT_TYPES = ("pil", "np", "pt")
RANGE_TOLERANCE = 1e-3
ImageInput = ImageSource | np.ndarray | torch.Tensor
"""A path, the bytes of a picture file, a PIL picture, or an array or tensor of one or several pictures."""


# ------------------------------------------------------------------------------------------------ processor


class SDICImageProcessor:
    """Turn what users have into what the networks need, and back.

    A picture whose aspect differs from height:width is cropped about its centre first, never stretched. 8-bit
    pictures are resized by Pillow (Lanczos); float and 16-bit ones by torch (antialiased bicubic, clamped), without
    being quantised. A picture that has the right size already is not resampled.
    """

    def __init__(self, height: int, width: int) -> None:
        """Choose the size of the networks' input.

        Args:
            height: Height in pixels.
            width: Width in pixels.

        Raises:
            SDICError: If either is not positive.
        """
        if height < 1 or width < 1:
            raise SDICError(f"A size of {height} x {width} is not possible; pass a positive height and width.")
        self.height = height
        self.width = width

    def preprocess(self, images: ImageInput | Sequence[ImageInput]) -> torch.Tensor:
        """Convert pictures to one batch.

        Args:
            images: One of the following, or a list of them (sizes and kinds may differ): a PIL picture, path or bytes;
                an array [H, W], [H, W, 1 | 3 | 4] or [B, H, W, 1 | 3 | 4]; a tensor [1 | 3 | 4, H, W] or
                [B, 1 | 3 | 4, H, W]. Arrays and tensors are uint8, uint16, or float in [0, 1]; a fourth channel is
                alpha, composited on white.

        Returns:
            [B, 3, height, width], float32 in [-1, 1]; on the device of the first picture if that is a float tensor,
            else on the CPU.

        Raises:
            ImageError: If a picture cannot be read, or its shape, type or range is none of these.
        """
        batch = _listed(images)
        if len(batch) == 0:
            raise ImageError("The list of pictures is empty; pass at least one picture.")
        parts = []
        for index, image in enumerate(batch):
            name = f"Picture {index + 1} of {len(batch)}" if len(batch) > 1 else "The picture"
            parts += [self._to_size(part, name) for part in _split(image, name)]
        return torch.cat([part.to(parts[0].device) for part in parts]) * 2 - 1

    @overload
    def postprocess(self, images: torch.Tensor, output_type: Literal["pil"] = "pil") -> list[Image.Image]: ...

    @overload
    def postprocess(self, images: torch.Tensor, output_type: Literal["np"]) -> np.ndarray: ...

    @overload
    def postprocess(self, images: torch.Tensor, output_type: Literal["pt"]) -> torch.Tensor: ...

    @overload
    def postprocess(self, images: torch.Tensor, output_type: str) -> list[Image.Image] | np.ndarray | torch.Tensor: ...

    def postprocess(
        self, images: torch.Tensor, output_type: str = "pil"
    ) -> list[Image.Image] | np.ndarray | torch.Tensor:
        """Convert rendered pictures to what users want.

        Args:
            images: [B, 3, H, W] of any size and float type, nominally in [-1, 1]; clamped.
            output_type: "pil", "np" or "pt".

        Returns:
            A list of B RGB pictures (rounded to 8 bits), an array [B, H, W, 3] float32 in [0, 1], or a tensor
            [B, 3, H, W] float32 in [0, 1] on the same device.

        Raises:
            SDICError: If `output_type` is none of the three.
            ImageError: If the shape is wrong or values are not numbers.
        """
        if output_type not in OUTPUT_TYPES:
            raise SDICError(f"output_type {output_type!r} is not known; use one of {', '.join(OUTPUT_TYPES)}.")
        if images.ndim != 4 or images.shape[1] != 3:
            raise ImageError(f"Pictures of shape {list(images.shape)} were given and [B, 3, H, W] is needed.")
        images = images.float()
        if images.numel() and images.amax().isnan():  # a NaN is the largest value, wherever it stands
            raise ImageError("The rendered pictures hold NaN (a float16 overflow?); run in float32 or bfloat16.")
        unit = (images / 2).add_(0.5).clamp_(0, 1)  # [B,3,H,W]
        if output_type == "pt":
            return unit
        array = unit.detach().permute(0, 2, 3, 1).contiguous().cpu().numpy()  # [B,H,W,3]
        if output_type == "np":
            return array
        return [Image.fromarray(picture) for picture in (array * 255).round().astype(np.uint8)]

    @staticmethod
    def preprocess_mask(
        mask: ImageInput | Sequence[ImageInput], height: int, width: int, batch_size: int
    ) -> torch.Tensor:
        """Convert a mask, or one per picture, to a tensor at the size of a feature map.

        The mask is cropped about its centre and resized like a picture, so one drawn on the photo fits the photo.

        Args:
            mask: A PIL picture, path or bytes (its luminance); an array [H, W], [H, W, 1], [B, H, W] or [B, H, W, 1];
                a tensor [H, W], [1, H, W], [B, H, W] or [B, 1, H, W]; or a list of single masks. Arrays and tensors
                are bool, uint8 (0 to 255), or float in [0, 1].
            height: Height to give it.
            width: Width to give it.
            batch_size: Number of pictures it is for.

        Returns:
            [1 or batch_size, 1, height, width], float32 in [0, 1].

        Raises:
            ImageError: If a mask cannot be read, its shape, type or range is none of these, or the number of masks is
                neither 1 nor `batch_size`.
        """
        masks = _listed(mask)
        if len(masks) == 0:
            raise ImageError("The list of masks is empty; pass one mask, or one per picture.")
        parts = [_mask_to_tensor(each) for each in masks]  # [K,1,h,w] each
        count = sum(len(part) for part in parts)
        if count not in (1, batch_size):
            shape = f" (shape {list(mask.shape)})" if isinstance(mask, np.ndarray | torch.Tensor) else ""
            raise ImageError(
                f"{count} masks{shape} were given for {batch_size} pictures; pass one mask, or one per picture."
            )
        sized = [_resize(_centre_crop(part, height, width), height, width, "bilinear") for part in parts]
        return torch.cat([part.to(sized[0].device) for part in sized])

    def _to_size(self, image: Image.Image | torch.Tensor, name: str) -> torch.Tensor:
        """One picture, PIL in RGB or [1, C, h, w] float in [0, 1], -> [1, 3, height, width] in [0, 1]."""
        if isinstance(image, torch.Tensor):
            return _resize(_centre_crop(_to_three_channels(image), self.height, self.width), self.height, self.width)
        if image.size != (self.width, self.height):
            box = _centre_box(image.height, image.width, self.height, self.width)
            image = _resize_part(image, box, (self.width, self.height))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


# ------------------------------------------------------------------------------------------------ arrays and tensors


def _listed(images: ImageInput | Sequence[ImageInput]) -> Sequence[ImageInput]:
    """A list or tuple as it is, else a list of the one input."""
    return images if isinstance(images, list | tuple) else [cast(ImageInput, images)]


def _split(image: ImageInput, name: str) -> list[Image.Image | torch.Tensor]:
    """Take an input apart into PIL pictures (RGB) and float tensors [1, C, h, w] in [0, 1]."""
    if not isinstance(image, np.ndarray | torch.Tensor):
        return [load_image(image)]
    pixels = _channels_first(image, name)  # [B,C,h,w]
    if pixels.dtype == torch.uint8:
        return [load_image(_uint8_to_pil(each)) for each in pixels]
    return list(_to_unit_range(pixels, name).split(1))


def _channels_first(image: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    """Bring an array or tensor to [B, C, h, w] with C = 1, 3 or 4."""
    shape = list(image.shape)
    if isinstance(image, torch.Tensor):
        pixels = image if image.ndim == 4 else image[None]
        needed = "a tensor [3, H, W] or [B, 3, H, W] (1 or 4 channels also do)"
    else:
        needed = "an array [H, W], [H, W, 3] or [B, H, W, 3] (1 or 4 channels also do)"
        pixels = _array_to_tensor(image[..., None] if image.ndim == 2 else image, name)
        pixels = pixels if pixels.ndim == 4 else pixels[None]
        pixels = pixels.movedim(-1, 1) if pixels.ndim == 4 else pixels
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3, 4) or pixels.numel() == 0:
        raise ImageError(f"{name} has shape {shape} and {needed} is needed; move or select its axes first.")
    return pixels


def _array_to_tensor(array: np.ndarray, name: str) -> torch.Tensor:
    try:
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise ImageError(_wrong_type(name, array.dtype)) from error


def _wrong_type(name: str, dtype: object) -> str:
    return f"{name} has type {dtype} and uint8, uint16 or float in [0, 1] is needed; convert it first."


def _to_unit_range(pixels: torch.Tensor, name: str) -> torch.Tensor:
    """[..] uint16 or float -> float32 in [0, 1]."""
    if pixels.dtype == torch.uint16:
        return pixels.float() / 65535
    if not pixels.is_floating_point():
        raise ImageError(_wrong_type(name, pixels.dtype))
    pixels = pixels.float()
    if not pixels.isfinite().all():
        raise ImageError(f"{name} holds NaN or infinite values and numbers in [0, 1] are needed; repair it first.")
    low, high = pixels.min().item(), pixels.max().item()
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        given = f"{name} is float in [{low:.4g}, {high:.4g}]"
        raise ImageError(f"{given} and [0, 1] is needed; {_range_remedy(low, high)}.")
    return pixels.clamp(0, 1)


def _range_remedy(low: float, high: float) -> str:
    if low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE:
        return "if it is in [-1, 1], pass x / 2 + 0.5"
    if low >= -RANGE_TOLERANCE and high <= 255 + RANGE_TOLERANCE:
        return "if it is in [0, 255], pass x / 255 or convert it to uint8"
    return "rescale it first"


def _uint8_to_pil(pixels: torch.Tensor) -> Image.Image:
    """[1 | 3 | 4, h, w] uint8 -> PIL."""
    array = pixels.permute(1, 2, 0).contiguous().cpu().numpy()  # [h,w,C]
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def _to_three_channels(pixels: torch.Tensor) -> torch.Tensor:
    """[B, 1 | 3 | 4, h, w] in [0, 1] -> [B, 3, h, w]; alpha is composited on white."""
    if pixels.shape[1] == 4:
        colour, alpha = pixels[:, :3], pixels[:, 3:]
        return colour * alpha + (1 - alpha)
    return pixels.expand(-1, 3, -1, -1)


def _mask_to_tensor(mask: ImageInput) -> torch.Tensor:
    """One mask or a batch of them -> [K, 1, h, w] float32 in [0, 1]."""
    if isinstance(mask, np.ndarray | torch.Tensor):
        values = _mask_axes(mask)
    else:
        values = torch.from_numpy(np.array(load_image(mask).convert("L")))[None, None]
    if values.dtype == torch.bool:
        return values.float()
    if values.dtype != torch.uint8:
        return _to_unit_range(values, "The mask")
    if values.max() == 1:
        raise ImageError("The mask is 8-bit with values 0 and 1 only, where 255 means 1; pass it as bool.")
    return values.float() / 255


def _mask_axes(mask: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Bring a mask array or tensor to [K, 1, h, w]."""
    if isinstance(mask, np.ndarray):
        last_is_channel = mask.ndim in (3, 4) and mask.shape[-1] == 1
        values = _array_to_tensor(mask[..., 0] if last_is_channel else mask, "The mask")
        valid = values.ndim in (2, 3) and (mask.ndim < 4 or last_is_channel)
    else:
        values = mask
        valid = mask.ndim in (2, 3) or (mask.ndim == 4 and mask.shape[1] == 1)
    if not valid or values.numel() == 0:
        raise ImageError(
            f"The mask has shape {list(mask.shape)} and [H, W], or one such mask per picture, is needed; "
            "select one channel."
        )
    return values.reshape(-1, 1, *values.shape[-2:])


# ------------------------------------------------------------------------------------------------ sizes


def _centre_box(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int, int, int]:
    """Largest centred box (left, top, right, bottom) with the target's aspect, in whole pixels."""
    box_width = max(1, min(width, round(height * target_width / target_height)))
    box_height = max(1, min(height, round(width * target_height / target_width)))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def _resize_part(image: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """Cut out a box and resize it, without a copy of it where it is large.

    Pillow resizes along x first, row by row; doing that to some rows at a time gives the very same pixels.
    """
    left, top, right, bottom = box
    if (right - left) * (bottom - top) <= STRIP_PIXELS or right - left == size[0]:
        return image.crop(box).resize(size, Image.Resampling.LANCZOS)
    narrow = Image.new(image.mode, (size[0], bottom - top))
    rows = max(1, STRIP_PIXELS // (right - left))
    for first in range(top, bottom, rows):
        strip = image.crop((left, first, right, min(first + rows, bottom)))
        narrow.paste(strip.resize((size[0], strip.height), Image.Resampling.LANCZOS), (0, first - top))
    return narrow.resize(size, Image.Resampling.LANCZOS)


def _centre_crop(pixels: torch.Tensor, target_height: int, target_width: int) -> torch.Tensor:
    height, width = pixels.shape[-2:]
    left, top, right, bottom = _centre_box(height, width, target_height, target_width)
    return pixels[..., top:bottom, left:right]


def _resize(pixels: torch.Tensor, height: int, width: int, mode: str = "bicubic") -> torch.Tensor:
    if pixels.shape[-2:] == (height, width):
        return pixels
    resized = F.interpolate(pixels, (height, width), mode=mode, antialias=True, align_corners=False)
    return resized.clamp(0, 1)
