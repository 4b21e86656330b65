"""What the Hub reads of a card."""

from __future__ import annotations

SCHEMA = {
    "license": str,
    "license_name": str,
    "library_name": str,
    "pipeline_tag": str,
    "tags": list,
    "datasets": list,
    "base_model": str,
    "base_model_relation": str,
    "model-index": list,
    "widget": list,
}
"""Type of each field of a card's header."""
