"""A tiny federation, for tests."""
