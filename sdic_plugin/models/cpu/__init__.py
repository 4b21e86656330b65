"""Shortcuts of the networks on CPUs; each is tested against the plain `forward` that it stands in for."""
