"""Callbacks: they orchestrate, they compute nothing."""
