"""Private facts about random generators: the state of all that Python, NumPy, TF, Keras share."""

from __future__ import annotations

import random

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

__all__ = ["eager_generator", "get_random_state", "set_random_state"]

_KERAS_GENERATOR = "global_seed_generator"


def get_random_state() -> dict:
    """The state of the process's generators, as plain values and arrays.

    Python's `random`, NumPy's legacy generator, TensorFlow's global generator (where the program
    has made one) and the one that seeds its eager operations, Keras's global seed generator.
    Seeds of layers (dropout) are variables of the model and not among them.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    eager = eager_generator()
    state = {
        "python": random.getstate(),
        "numpy": [kind, keys, position, has_gauss, gauss],
        "tensorflow_eager": None if eager is None else eager.getstate(),
        "tensorflow": None,
        "keras": None,
    }
    if stateful_random_ops.global_generator is not None:
        state["tensorflow"] = stateful_random_ops.global_generator.state.numpy()
    generator = global_state.get_global_attribute(_KERAS_GENERATOR)
    if generator is not None:
        state["keras"] = generator.state.numpy()
    return state


def set_random_state(state: dict) -> None:
    """Put the generators back into the state that `get_random_state` read."""
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.asarray(keys), position, has_gauss, gauss))
    if state["tensorflow_eager"] is not None and eager_generator() is not None:
        # Operations that ran with a seed count on from there, until a seed is set again.
        tf.random.set_seed(context.global_seed())
        eager_generator().setstate(_as_tuples(state["tensorflow_eager"]))
    if state["tensorflow"] is not None:
        tf.random.get_global_generator().state.assign(state["tensorflow"])
    if state["keras"] is not None:
        generator = global_state.get_global_attribute(_KERAS_GENERATOR)
        if generator is None:
            generator = keras.random.SeedGenerator()
            global_state.set_global_attribute(_KERAS_GENERATOR, generator)
        generator.state.assign(state["keras"])
    # Last, as Keras draws the seeds of new generators from it.
    random.setstate(_as_tuples(state["python"]))


def eager_generator() -> random.Random | None:
    """What seeds eager operations; there is none before a program sets a seed, or needs one."""
    return getattr(context.context(), "_rng", None)


def _as_tuples(state):
    version, numbers, gauss = state
    return version, tuple(int(number) for number in numbers), gauss
