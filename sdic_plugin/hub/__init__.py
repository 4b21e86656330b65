"""Sharing on the Hugging Face Hub: cards and uploads."""

from sdic_plugin.hub.cards import CardFacts, ModelFacts, edits_card, model_card
from sdic_plugin.hub.upload import check_license, push_edits, push_folder

__all__ = ["CardFacts", "ModelFacts", "check_license", "edits_card", "model_card", "push_edits", "push_folder"]
