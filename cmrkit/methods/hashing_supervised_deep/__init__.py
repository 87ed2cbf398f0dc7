"""Supervised hashing with networks."""
