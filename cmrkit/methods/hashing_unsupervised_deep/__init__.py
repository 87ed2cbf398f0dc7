"""Methods of the family named by this folder; one file per paper."""
