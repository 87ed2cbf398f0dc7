"""Datasets: one reader per dataset, one common form."""
