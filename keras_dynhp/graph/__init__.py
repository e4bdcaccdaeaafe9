"""Following channels through a Keras graph."""
