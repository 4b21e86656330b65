"""SDIC: GAN inversion with spatial-contextual discrepancy compensation, as a diffusers-style pipeline.

The names below are also the checkpoint format: `model_index.json` stores the module of each component, which is this
package itself, and diffusers looks components up here by their base class `ModelMixin`.
"""

from diffusers import ModelMixin

from sdic_plugin.edits import DirectionEdit, Edit, GANSpaceEdit, StyleSpaceEdit, read_edits, write_edits
from sdic_plugin.errors import CheckpointError, EditError, ImageError, SDICError
from sdic_plugin.images.alignment import Alignment, AlignmentTemplate, align_by_eyes, paste_back
from sdic_plugin.images.face_alignment import FaceLandmarks, FFHQTemplate, align_face, read_template
from sdic_plugin.images.face_detection import DetectedFace, choose_face, detect_faces
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.images.reading import load_image
from sdic_plugin.models import (
    DICN,
    DIPN,
    DICNOutput,
    E4EEncoder,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    SynthesisOutput,
)
from sdic_plugin.pipeline.auto_mask import AutoMask
from sdic_plugin.pipeline.output import SDICInversion, SDICPipelineOutput
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.version import __version__

__all__ = [
    "DICN",
    "DIPN",
    "Alignment",
    "AlignmentTemplate",
    "AutoMask",
    "CheckpointError",
    "DICNOutput",
    "DetectedFace",
    "DirectionEdit",
    "E4EEncoder",
    "Edit",
    "EditError",
    "FFHQTemplate",
    "FaceLandmarks",
    "GANSpaceEdit",
    "ImageError",
    "ModelMixin",
    "SDICError",
    "SDICImageProcessor",
    "SDICInversion",
    "SDICPipeline",
    "SDICPipelineOutput",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "StyleSpaceEdit",
    "SynthesisOutput",
    "__version__",
    "align_by_eyes",
    "align_face",
    "choose_face",
    "detect_faces",
    "load_image",
    "paste_back",
    "read_edits",
    "read_template",
    "write_edits",
]
