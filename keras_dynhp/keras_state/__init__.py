"""The only place in this package that touches private Keras state: one function per fact.

Read against Keras 3.8 to 3.15; `tests/keras_state` fails loudly when a new Keras changes a fact.
"""
