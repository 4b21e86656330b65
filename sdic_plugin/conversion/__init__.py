"""Conversion of checkpoints in other formats into ours."""

from sdic_plugin.checkpoints.readers import read_checkpoint
from sdic_plugin.conversion.convert import convert
from sdic_plugin.conversion.recognise import recognise
from sdic_plugin.conversion.report import ConversionReport, format_report
from sdic_plugin.models.fingerprint import generator_fingerprint

__all__ = [
    "ConversionReport",
    "convert",
    "format_report",
    "generator_fingerprint",
    "read_checkpoint",
    "recognise",
]
