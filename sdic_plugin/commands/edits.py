"""`sdic edits`: bring edits in, find new ones, look at them."""

from __future__ import annotations

from sdic_plugin.commands import edits_find, edits_import, edits_show
from sdic_plugin.commands.framework import Commands
from sdic_plugin.commands.options import PHOTOS


def register(commands: Commands) -> None:
    """Add `sdic edits`."""
    actions = Commands("bring edits in, find new ones, look at them")
    for action in (edits_import, edits_find, edits_show):
        action.register(actions)
    commands.group("edits", actions, PHOTOS)
