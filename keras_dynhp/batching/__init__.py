"""The training batch: rules for its size, and changing it while `fit` runs."""
