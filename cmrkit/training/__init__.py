"""The one loop that trains every deep method. Importing this package does not import torch."""
