"""From masks or decisions to a smaller model."""
