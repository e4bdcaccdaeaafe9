"""Keras layers of this package."""
