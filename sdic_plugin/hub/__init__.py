"""Sharing on the Hugging Face Hub: cards and uploads."""

from sdic_plugin.hub.cards import CardFacts, edits_card, model_card
from sdic_plugin.hub.upload import push_edits, push_model

__all__ = ["CardFacts", "edits_card", "model_card", "push_edits", "push_model"]
