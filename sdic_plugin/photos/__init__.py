"""Folders of photos through the pipeline."""
