"""Dynamic Hard Pruning: Keras 3 networks that become small while they train."""
