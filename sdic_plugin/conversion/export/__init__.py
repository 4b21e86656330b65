"""Exports: our models in other formats."""

from sdic_plugin.conversion.export.onnx import export_onnx
from sdic_plugin.conversion.export.remote_code import export_remote_code
from sdic_plugin.conversion.export.rosinality import export_rosinality
from sdic_plugin.conversion.export.web import export_web

__all__ = ["export_onnx", "export_remote_code", "export_rosinality", "export_web"]
