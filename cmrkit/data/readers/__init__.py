"""One reader per dataset, named after the dataset."""
