"""Measurements, each started by a command and writing its table to benchmarks/results."""
