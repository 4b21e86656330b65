"""The networks, one file each."""

from diffusers.models.modeling_utils import ModelMixin

from sdic_plugin.models.dicn import DICN, DICNOutput
from sdic_plugin.models.dipn import DIPN
from sdic_plugin.models.discriminator import StyleGAN2Discriminator
from sdic_plugin.models.e4e_encoder import E4EEncoder
from sdic_plugin.models.stylegan2 import StyleGAN2Generator, SynthesisOutput

PIPELINE_COMPONENTS: dict[str, type[ModelMixin]] = {
    "encoder": E4EEncoder,
    "dipn": DIPN,
    "dicn": DICN,
    "generator": StyleGAN2Generator,
}
"""Class of each network of a pipeline, by component name."""


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
