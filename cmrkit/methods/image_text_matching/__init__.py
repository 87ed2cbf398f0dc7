"""Image-text matching: sets of regions and words, or sentence vectors, ranked by the pair."""
