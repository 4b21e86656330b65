"""Cutting the model's crop out of a frame of video, quickly: only what is near is converted, and shrunk in bytes."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from sdic_plugin.images.alignment import Alignment, Box, cut_crop
from sdic_plugin.images.face_alignment import FFHQTemplate, ffhq_crop
from sdic_plugin.images.resampling import compose, invert_similarity
from sdic_plugin.photos.photo import model_template
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.video.reading import Frame

SAMPLES = 2
"""Pixels of a frame, along each side of a pixel of the crop, that are enough to make it of."""

KERNELS, BORDER = 20, 0.12
"""What a crop may depend on around it: as many of its pixels, for the filters; and a share of its side, for FFHQ's."""

EDGE = 4
"""Pixels of the crop around it that are made with it, so that those at its edge are averaged like the others."""


def crop_frame(pipe: SDICPipeline, frame: Frame, alignment: Alignment) -> Image.Image:
    """Cut a crop out of a frame as the model's training pictures were; of a large frame, out of a smaller copy."""
    step = math.dist(*alignment.quad[:2]) / alignment.crop_size[0]
    shrink = max(1, int(step / SAMPLES))
    box = _surroundings(alignment, step, shrink)
    picture = frame.rgb(box).reduce(shrink)
    matrix = compose(alignment.matrix, ((shrink, 0, box[0]), (0, shrink, box[1])))
    padded = pipe.config.alignment is not None and isinstance(model_template(pipe), FFHQTemplate)
    return cut_picture(picture, Alignment(matrix, alignment.crop_size, picture.size), padded)


def cut_picture(picture: Image.Image, alignment: Alignment, padded: bool) -> Image.Image:
    """Cut a crop out of an RGB picture: as `ffhq_crop` does if `padded`, else as `cut_crop` does.

    Where the crop shrinks and lies within the picture all is done in bytes, three times as quickly, and comes to the
    same but for a grey level or two.
    """
    corners, (width, height) = alignment.quad, alignment.crop_size
    step = math.dist(*corners[:2]) / width
    margin = max(EDGE + SAMPLES, BORDER * width) * step
    inside = (corners >= margin).all() and (corners <= np.array(picture.size) - margin).all()
    if step <= 1 or not inside:
        return ffhq_crop(picture, alignment) if padded else cut_crop(picture, alignment)
    samples = max(SAMPLES, round(step))
    matrix = compose(invert_similarity(alignment.matrix), ((1 / samples, 0, -EDGE), (0, 1 / samples, -EDGE)))
    size = ((width + 2 * EDGE) * samples, (height + 2 * EDGE) * samples)
    dense = picture.transform(size, Image.Transform.AFFINE, (*matrix[0], *matrix[1]), Image.Resampling.BICUBIC)
    within = (EDGE * samples, EDGE * samples, (EDGE + width) * samples, (EDGE + height) * samples)
    return dense.resize((width, height), Image.Resampling.LANCZOS, within)


def _surroundings(alignment: Alignment, step: float, shrink: int) -> Box:
    """Box of the frame that holds all a crop is made of; where that is beyond the frame, which is reflected, all."""
    margin = max(KERNELS, BORDER * alignment.crop_size[0]) * max(step, shrink)
    unit = math.lcm(2, shrink)
    ends = []
    for axis, length in enumerate(alignment.photo_size):
        low, high = alignment.quad[:, axis].min() - margin, alignment.quad[:, axis].max() + margin
        inside = low >= 0 and high <= length
        ends.append((int(low) // unit * unit, min(math.ceil(high / unit) * unit, length)) if inside else (0, length))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom
