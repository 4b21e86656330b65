"""Pictures: reading, resampling, alignment, faces, comparison, sheets, and folders of them."""
