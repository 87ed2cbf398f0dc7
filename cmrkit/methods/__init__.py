"""Methods: one file per paper, in the same folders as the recipes."""
