"""The version, apart from the package's imports so that building needs no torch."""

__version__ = "0.1.0"
