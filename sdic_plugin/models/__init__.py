"""The networks, one file each."""

from diffusers.models.modeling_utils import ModelMixin

from sdic_plugin.models.dicn import DICN, DICNOutput
from sdic_plugin.models.dipn import DIPN
from sdic_plugin.models.discriminator import StyleGAN2Discriminator
from sdic_plugin.models.e4e_encoder import E4EEncoder
from sdic_plugin.models.stylegan2 import StyleGAN2Generator, SynthesisOutput
from sdic_plugin.models.transport import FeatureTransport

PIPELINE_COMPONENTS: dict[str, type[ModelMixin]] = {
    "encoder": E4EEncoder,
    "dipn": DIPN,
    "dicn": DICN,
    "generator": StyleGAN2Generator,
}
"""Class of each network that every pipeline has, by component name."""

OPTIONAL_COMPONENTS: dict[str, type[ModelMixin]] = {"transport": FeatureTransport}
"""Class of each network that a pipeline may have."""

ALL_COMPONENTS = PIPELINE_COMPONENTS | OPTIONAL_COMPONENTS


__all__ = [
    "ALL_COMPONENTS",
    "DICN",
    "DIPN",
    "OPTIONAL_COMPONENTS",
    "PIPELINE_COMPONENTS",
    "DICNOutput",
    "E4EEncoder",
    "FeatureTransport",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "SynthesisOutput",
]
