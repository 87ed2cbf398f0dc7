"""Features of images and texts."""
