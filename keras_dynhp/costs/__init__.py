"""What a network costs: multiply-accumulates, flash and arena, read from its graph."""
