"""Choosing neurons: what they cost, which go, and the soft masks while they are on trial."""
