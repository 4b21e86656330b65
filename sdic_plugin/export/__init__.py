"""Models of ours in the formats of others."""

from sdic_plugin.export.rosinality import export_rosinality

__all__ = ["export_rosinality"]
