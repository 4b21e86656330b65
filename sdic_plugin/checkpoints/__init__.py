"""Files that cannot be trusted: checkpoints, model folders, downloads; nothing of theirs runs."""
