"""The pipeline: inversion, compensation, edits, rendering, saving."""

from sdic_plugin.pipeline.output import SDICInversion, SDICPipelineOutput
from sdic_plugin.pipeline.sdic import SDICPipeline

# As in `sdic_plugin.models`: what model_index.json stores.
SDICPipeline.__module__ = "sdic_plugin"

__all__ = ["SDICInversion", "SDICPipeline", "SDICPipelineOutput"]
