"""cmrkit reproduces cross-modal (image-text) retrieval papers with one command."""

__version__ = "0.1.0"
