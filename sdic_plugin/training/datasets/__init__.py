"""Training sets that this package can rebuild from their public sources."""
