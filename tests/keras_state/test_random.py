"""The generators that a process shares: what they give next is put back, in another process too."""

import json
import os
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context

from keras_dynhp.keras_state.random import get_random_state, set_random_state
from keras_dynhp.saving.files import read_tree, write_tree

DRAWS = {
    "python": lambda: [random.random(), random.gauss(0, 1)],
    "numpy": lambda: [*np.random.rand(2), np.random.normal()],
    "tensorflow's eager operations": lambda: tf.random.uniform((2,)).numpy().tolist(),
    "tensorflow's global generator": lambda: (
        tf.random.get_global_generator().uniform((2,)).numpy().tolist()
    ),
    "keras": lambda: keras.random.uniform((2,)).numpy().tolist(),
    "a shuffled dataset without a seed": lambda: [
        int(n) for n in tf.data.Dataset.range(9).shuffle(9).as_numpy_iterator()
    ],
    "weights without a seed": lambda: (
        keras.layers.Dense(3).build((2, 2))
        or keras.initializers.GlorotUniform()((2, 2)).numpy().tolist()
    ),
}


def draw():
    return {name: np.asarray(draw(), float).tolist() for name, draw in DRAWS.items()}


@pytest.mark.parametrize("name", DRAWS)
def test_the_next_draw_is_the_same(name):
    keras.utils.set_random_seed(3)
    DRAWS[name]()
    state = get_random_state()
    first, second = DRAWS[name](), DRAWS[name]()
    assert not np.array_equal(first, second)
    set_random_state(state)
    np.testing.assert_array_equal(DRAWS[name](), first)
    np.testing.assert_array_equal(DRAWS[name](), second)


def test_through_a_file_into_another_process(tmp_path, run_alone):
    keras.utils.set_random_seed(3)
    draw()
    write_tree(tmp_path / "state.npz", get_random_state())
    expected = draw()
    program = (
        "import json, sys, keras; sys.path.insert(0, sys.argv[1]); import test_random as t;"
        "keras.utils.set_random_seed(3);"
        "t.set_random_state(t.read_tree(sys.argv[2])); print(json.dumps(t.draw()))"
    )
    printed = run_alone(program, os.path.dirname(__file__), tmp_path / "state.npz")
    assert json.loads(printed) == expected
    assert read_tree(tmp_path / "state.npz").keys() == get_random_state().keys()


def test_where_keras_keeps_its_generator():
    keras.utils.set_random_seed(3)
    global_state.set_global_attribute("global_seed_generator", None)
    assert get_random_state()["keras"] is None
    keras.random.uniform(())
    generator = global_state.get_global_attribute("global_seed_generator")
    assert isinstance(generator, keras.random.SeedGenerator)
    np.testing.assert_array_equal(get_random_state()["keras"], generator.state.numpy())


def test_a_seed_starts_the_eager_operations_anew():
    """What the state holds is theirs, and putting it back leaves the seed as it was."""
    keras.utils.set_random_seed(3)
    state = get_random_state()
    assert state["tensorflow_eager"] is not None
    set_random_state(state)
    assert context.global_seed() == 3


def test_a_program_that_never_set_a_seed(monkeypatch):
    monkeypatch.delattr(context.context(), "_rng", raising=False)
    state = get_random_state()
    assert state["tensorflow_eager"] is None
    set_random_state(state)
