"""Training: one file per stage, and what they share."""
