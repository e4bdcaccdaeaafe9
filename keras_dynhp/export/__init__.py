"""From a Keras model to what a microcontroller runs, and the proof that it does."""
