"""The networks, one file each."""

from sdic_plugin.models.dicn import DICN, DICNOutput
from sdic_plugin.models.dipn import DIPN
from sdic_plugin.models.discriminator import StyleGAN2Discriminator
from sdic_plugin.models.e4e_encoder import E4EEncoder
from sdic_plugin.models.stylegan2 import StyleGAN2Generator, SynthesisOutput

PIPELINE_COMPONENTS = {"encoder": E4EEncoder, "dipn": DIPN, "dicn": DICN, "generator": StyleGAN2Generator}
"""Class of each network of a pipeline, by component name."""

# diffusers stores `cls.__module__` in model_index.json; a promise must not depend on the file a class lives in.
for _component in (DICN, DIPN, E4EEncoder, StyleGAN2Discriminator, StyleGAN2Generator):
    _component.__module__ = "sdic_plugin"

__all__ = [
    "DICN",
    "DIPN",
    "PIPELINE_COMPONENTS",
    "DICNOutput",
    "E4EEncoder",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "SynthesisOutput",
]
