"""The pipeline: inversion, compensation, edits, rendering, saving."""

from sdic_plugin.pipeline.output import SDICInversion, SDICPipelineOutput
from sdic_plugin.pipeline.sdic import SDICPipeline

__all__ = ["SDICInversion", "SDICPipeline", "SDICPipelineOutput"]
