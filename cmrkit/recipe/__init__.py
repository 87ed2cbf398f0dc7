"""Recipes and manifests: from YAML to validated objects."""
