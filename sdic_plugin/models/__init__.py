"""The networks, one file each."""

from sdic_plugin.models.dicn import DICN, DICNOutput
from sdic_plugin.models.dipn import DIPN
from sdic_plugin.models.discriminator import StyleGAN2Discriminator
from sdic_plugin.models.e4e_encoder import E4EEncoder
from sdic_plugin.models.stylegan2 import StyleGAN2Generator, SynthesisOutput

__all__ = [
    "DICN",
    "DIPN",
    "DICNOutput",
    "E4EEncoder",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "SynthesisOutput",
]
