"""Gaussian blur against scipy's."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from sdic_plugin.images.blurring import blur, gaussian


def test_blur_is_a_gaussian_with_reflected_borders():
    image = torch.rand(2, 3, 16, 16)
    wanted = [
        [ndimage.gaussian_filter(plane.double(), 1.2, mode="mirror", radius=4) for plane in planes] for planes in image
    ]
    torch.testing.assert_close(
        blur(image, gaussian(1.2, 4)).double(), torch.from_numpy(np.array(wanted)), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(blur(image, gaussian(1e-3, 4)), image)
