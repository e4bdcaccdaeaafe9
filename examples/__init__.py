"""Scripts a person runs and copies from; `networks` and `datasets` are theirs to share."""
