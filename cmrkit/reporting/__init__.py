"""Judging results and showing them."""
