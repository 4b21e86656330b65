"""The bundled faces, faces128: what their generator promises. They are no pipeline yet, so no name finds them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sdic_plugin import SDICPipeline, StyleGAN2Generator
from sdic_plugin.checkpoints.components import load_component
from sdic_plugin.images.face_detection import find_points
from sdic_plugin.models import StyleGAN2Discriminator
from sdic_plugin.models.fingerprint import generator_fingerprint
from sdic_plugin.models.sampling import sample

FILES = Path(__file__).parents[2] / "sdic_plugin" / "bundled" / "faces128"


@pytest.fixture(scope="module")
def generator() -> StyleGAN2Generator:
    return load_component(StyleGAN2Generator, FILES, "generator").eval().requires_grad_(False)


def test_files_are_half_precision_safetensors_of_at_most_25_megabytes():
    files = [path for path in FILES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}
    for path in FILES.glob("*/*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors = [file.get_tensor(key) for key in file.keys()]
        assert {tensor.dtype for tensor in tensors} == {torch.float16}
        assert all(torch.isfinite(tensor).all() for tensor in tensors)


def test_they_say_whose_data_they_come_from(generator):
    assert generator.config.license == "cc-by-4.0"
    notice = (FILES / "NOTICE.md").read_text(encoding="utf-8")
    for text in (generator.config.source, notice):
        assert "FairFace" in text and "Kärkkäinen" in text
    assert "CC BY 4.0" in notice
    for path in FILES.rglob("config.json"):
        assert "_name_or_path" not in path.read_text(encoding="utf-8")


def test_generator_and_discriminator_fit_and_can_be_edited(generator):
    assert (generator.config.resolution, generator.num_styles, generator.config.feature_resolution) == (128, 12, 64)
    assert load_component(StyleGAN2Discriminator, FILES, "discriminator").config.resolution == 128
    # Edits that are found for it know it by this, whatever its precision.
    assert len(generator.config.generator_id) == len(generator_fingerprint(generator)) == 16


def test_every_sample_is_a_face(generator):
    """48 samples that nobody picked, at the truncation of the card."""
    pytest.importorskip("cv2", reason="needs OpenCV: pip install 'sdic-plugin[align]'")
    images = sample(generator, 48, truncation=0.7).images
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    points = find_points(pixels)
    assert not np.isnan(points).any()
    eyes, mouth = points[:, :2].mean(axis=1), points[:, 3:].mean(axis=1)
    assert np.abs(eyes - np.median(eyes, axis=0)).max() < 0.1  # aligned, as the photos were
    assert (mouth[:, 1] - eyes[:, 1] > 0.2).all()


def test_paths_through_latents_are_smooth(generator):
    """No step of a line from one sample to the next is far longer than the others, as it would be at a jump."""
    ends = sample(generator, 8, seed=100, truncation=0.7).latents
    shares = torch.linspace(0, 1, 9)[:, None, None]
    for start, end in itertools.pairwise(ends):
        images = generator(torch.lerp(start, end, shares)).image
        steps = (images[1:] - images[:-1]).flatten(1).norm(dim=1)
        assert steps.max() < 2 * steps.mean()


def test_without_an_encoder_they_are_no_pipeline():
    with pytest.raises(Exception, match="faces128"):
        SDICPipeline.from_pretrained(FILES)
