"""Pieces of mathematics that several methods share."""
