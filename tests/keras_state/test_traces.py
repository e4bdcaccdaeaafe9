"""What TensorFlow keeps of traced functions, and that it can be made to let go."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dynhp.keras_state.model import renew_train_step
from keras_dynhp.keras_state.traces import forget_traces

X = np.zeros((8, 3), "float32")


def trained(optimizer="adam", **compile_args):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer, "mse", **compile_args)
    model.fit(X, X[:, :2], batch_size=4, verbose=0)
    return model


class Graphs:
    """Weak references to the graphs that are traced meanwhile."""

    def __enter__(self):
        from tensorflow.python.framework.func_graph import FuncGraph

        self._class, self._init = FuncGraph, FuncGraph.__init__
        self.made = made = []

        def noting(graph, *args, **kwargs):
            self._init(graph, *args, **kwargs)
            made.append(weakref.ref(graph))

        FuncGraph.__init__ = noting
        return self

    def __exit__(self, *_):
        self._class.__init__ = self._init

    def alive(self):
        gc.collect()
        return [
            graph().name for graph in self.made if graph() is not None and "step" in graph().name
        ]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_train_step_that_is_made_anew_leaves_no_graph(scaled, steps):
    optimizer = keras.optimizers.SGD(0.1)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    with Graphs() as graphs:
        model = trained(optimizer, steps_per_execution=steps)
    assert graphs.alive()
    renew_train_step(model)
    assert graphs.alive() == []
    model.fit(X, X[:, :2], verbose=0)


def test_without_it_tensorflow_keeps_the_graph():
    with Graphs() as graphs:
        model = trained()
    model.make_train_function(force=True)
    assert graphs.alive()


def test_gradients_of_other_functions_are_left_alone():
    @tf.custom_gradient
    def tripled(x):
        return x, lambda upstream: 3.0 * upstream

    other = tf.function(lambda x: tripled(x) ** 2)
    assert float(other(tf.constant(2.0))) == 4.0
    model = trained()
    forget_traces(model.train_function)
    x = tf.Variable(2.0)
    with tf.GradientTape() as tape:
        y = other(x)
    assert float(tape.gradient(y, x)) == 12.0


def test_eager_steps_and_none_have_nothing_to_forget():
    forget_traces(None)
    forget_traces(trained(run_eagerly=True).train_function)
