"""SDIC: GAN inversion with spatial-contextual discrepancy compensation, as a diffusers-style pipeline.

The names below are also the checkpoint format: `model_index.json` stores the module of each component, which is this
package itself, and diffusers looks components up here by their base class `ModelMixin`.

Names are imported when they are first used (PEP 562), so that `import sdic_plugin` costs nothing and the command line
answers without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdic_plugin.utils.lazy import import_at_first_use
from sdic_plugin.version import __version__

if TYPE_CHECKING:  # what `_NAMES_BY_MODULE` lists, for type checkers and editors
    from diffusers.models.modeling_utils import ModelMixin

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
        FeatureTransport,
        StyleGAN2Discriminator,
        StyleGAN2Generator,
        SynthesisOutput,
    )
    from sdic_plugin.pipeline.auto_mask import AutoMask
    from sdic_plugin.pipeline.output import SDICInversion, SDICPipelineOutput
    from sdic_plugin.pipeline.sdic import SDICPipeline

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
    "FeatureTransport",
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

_NAMES_BY_MODULE = {
    "diffusers.models.modeling_utils": ("ModelMixin",),
    "sdic_plugin.edits": ("DirectionEdit", "Edit", "GANSpaceEdit", "StyleSpaceEdit", "read_edits", "write_edits"),
    "sdic_plugin.errors": ("CheckpointError", "EditError", "ImageError", "SDICError"),
    "sdic_plugin.images.alignment": ("Alignment", "AlignmentTemplate", "align_by_eyes", "paste_back"),
    "sdic_plugin.images.face_alignment": ("FFHQTemplate", "FaceLandmarks", "align_face", "read_template"),
    "sdic_plugin.images.face_detection": ("DetectedFace", "choose_face", "detect_faces"),
    "sdic_plugin.images.processor": ("SDICImageProcessor",),
    "sdic_plugin.images.reading": ("load_image",),
    "sdic_plugin.models": (
        "DICN",
        "DIPN",
        "DICNOutput",
        "E4EEncoder",
        "FeatureTransport",
        "StyleGAN2Discriminator",
        "StyleGAN2Generator",
        "SynthesisOutput",
    ),
    "sdic_plugin.pipeline.auto_mask": ("AutoMask",),
    "sdic_plugin.pipeline.output": ("SDICInversion", "SDICPipelineOutput"),
    "sdic_plugin.pipeline.sdic": ("SDICPipeline",),
}
_MODULES = ("checkpoints", "edits", "errors", "hub", "images", "models", "pipeline", "utils")
"""They are attributes of the package without an import of their own, as `sdic_plugin.models.DIPN`."""

if not TYPE_CHECKING:  # a type checker that sees it would take any misspelt name
    __getattr__, __dir__ = import_at_first_use(__name__, _NAMES_BY_MODULE, _MODULES)
