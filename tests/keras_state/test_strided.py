"""oneDNN's kernel for strided convolutions of size 1 with narrow inputs is kept out of training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

from keras_dynhp.keras_state.strided import is_training, sidestep_strided_kernels

LAYERS = {
    "1d": lambda: L.Conv1D(5, 1, strides=3),
    "causal": lambda: L.Conv1D(5, 1, strides=2, padding="causal"),
    "2d": lambda: L.Conv2D(5, 1, strides=(2, 3)),
    "same": lambda: L.Conv2D(5, 1, strides=2, padding="same"),
    "groups": lambda: L.Conv2D(6, 1, strides=2, groups=3),
}


def one_layer(layer):
    shape = (9, 3) if isinstance(layer, L.Conv1D) else (9, 8, 3)
    return keras.Sequential([keras.Input(shape), layer])


def operations(model, training):
    x = tf.zeros((2, *model.input_shape[1:]))
    step = tf.function(lambda x: model(x, training=training), autograph=False)
    return {operation.type for operation in step.get_concrete_function(x).graph.get_operations()}


def gradients(model, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=True)
    return y, *tape.gradient(y, [x, *model.trainable_variables], output_gradients=tf.sin(y))


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_the_same_numbers_and_gradients(make):
    model = one_layer(make())
    x = tf.random.normal((4, *model.input_shape[1:]))
    expected = gradients(model, x)
    sidestep_strided_kernels(model)
    assert "StridedSlice" in operations(model, training=True)
    for got, want in zip(gradients(model, x), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_only_in_training_and_only_where_inputs_are_narrow():
    def wide(channels, **options):
        return keras.Sequential([keras.Input((6, 6, channels)), L.Conv2D(4, **options)])

    narrow = wide(15, kernel_size=1, strides=2)
    before = narrow.get_config()
    others = [
        wide(16, kernel_size=1, strides=2),
        wide(15, kernel_size=1),
        wide(15, kernel_size=3, strides=2),
    ]
    for model in [narrow, *others]:
        sidestep_strided_kernels(model)
    assert "StridedSlice" in operations(narrow, training=True)
    for model, training in [(narrow, False), (narrow, None), *((m, True) for m in others)]:
        assert "StridedSlice" not in operations(model, training)
    assert narrow.get_config() == before
    assert narrow.layers[0].strides == (2, 2)


def test_inside_models_and_layers_and_once_only():
    inside = keras.Sequential([keras.Input((8, 3)), L.Conv1D(2, 1, strides=2, name="deep")])
    model = keras.Sequential(
        [keras.Input((5, 8, 3)), L.TimeDistributed(inside), L.Conv2D(2, 1, strides=2)]
    )
    sidestep_strided_kernels(model)
    calls = [vars(layer)["call"] for layer in (inside.layers[0], model.layers[1])]
    sidestep_strided_kernels(model)
    assert calls == [vars(layer)["call"] for layer in (inside.layers[0], model.layers[1])]
    assert "StridedSlice" in operations(inside, training=True)


@pytest.mark.parametrize("training", [True, False, None])
def test_a_layer_knows_whether_it_is_trained(training):
    seen = []

    class Ask(L.Layer):
        def call(self, x):
            seen.append(is_training(self))
            return x

    model = keras.Sequential([keras.Input((2,)), keras.Sequential([keras.Input((2,)), Ask()])])
    seen.clear()
    model(np.zeros((1, 2)), training=training)
    assert seen == [bool(training)]


CRASHES = """
import keras, numpy as np
from keras import layers as L
import keras_dynhp as dynhp

inputs = keras.Input((224, 224, 1))
x = L.Conv2D(24, 1, activation="relu", name="narrow")(inputs)
x = L.GlobalAveragePooling2D()(L.Conv2D(18, 1, strides=2, name="strided")(x))
model = keras.Model(inputs, L.Dense(2)(x))
model.compile("sgd", "mse")
x, y = np.random.rand(16, 224, 224, 1), np.random.rand(16, 2)
hp = dynhp.PruneAndRebuild(
    dynhp.Target(compression=2), schedule=lambda progress: 1.0, criterion="random"
)
model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[hp])
assert model.get_layer("narrow").filters < 16, model.get_layer("narrow").filters
model.fit(x, y, batch_size=8, verbose=0)
print(hp.report)
"""

JUDGED = """
import keras, numpy as np, tensorflow as tf
from keras import layers as L
import keras_dynhp as dynhp

inputs = keras.Input((224, 224, 1))
x = L.Conv2D(12, 1, activation="relu")(inputs)
x = L.GlobalAveragePooling2D()(L.Conv2D(18, 1, strides=2)(x))
model = keras.Model(inputs, L.Dense(2)(x))
model.compile("sgd", "mse")
x, y = np.random.rand(32, 224, 224, 1), np.random.rand(32, 2)
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
small = dynhp.prune(model, dynhp.Target(compression=2), "taylor", data)
print(small.count_params() < model.count_params())
"""


def test_training_goes_on_where_it_would_crash(run_alone):
    """Without this, AVX-512 machines write past oneDNN's workspace and the process dies."""
    report = run_alone(CRASHES)
    assert "without keras_dynhp, on a CPU, TensorFlow can crash on strided: set TF_" in report


def test_a_trained_narrow_network_is_judged_where_it_would_crash(run_alone):
    """One-shot pruning takes gradients of the inference form."""
    assert "True" in run_alone(JUDGED)
