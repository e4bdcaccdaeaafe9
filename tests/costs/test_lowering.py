"""The device operators read from a graph are those that the converter makes."""

import keras
import networks
import pytest
from keras import layers, ops

from keras_dynhp.costs import lowering_rules  # noqa: F401
from keras_dynhp.costs.lowering import lower, register_lowering, weight
from keras_dynhp.export import flatbuffer


def converted(path):
    """Operators of a file: name, shapes of constants, shapes of outputs."""
    model = flatbuffer.read(path.read_bytes())
    tensors = model.subgraphs[0].tensors

    def shape(number):
        return tuple(int(n) for n in tensors[number].shape)

    def constant(number):
        return number >= 0 and model.buffers[tensors[number].buffer].data is not None

    return [
        (
            flatbuffer.operator_name(model, operator),
            sorted(shape(n) for n in operator.inputs if constant(n)),
            [shape(n) for n in operator.outputs],
        )
        for operator in model.subgraphs[0].operators
    ]


def lowered(model):
    return [
        (op.kind, sorted(c.shape for c in op.constants), [value.shape for value in op.outputs])
        for op in lower(model).operators
    ]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_benchmark_networks(name, measured):
    model, path, _ = measured(name, 0.3)
    assert lowered(model) == converted(path)


def one_dimension(x):
    x = layers.Conv1D(6, 3, activation="relu")(x)
    x = layers.MaxPooling1D()(x)
    x = layers.BatchNormalization()(layers.Conv1D(4, 3, use_bias=False)(x))
    return layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(x))


def activations(x):
    x = layers.Conv2D(4, 3, activation="swish")(x)
    x = layers.LeakyReLU()(layers.PReLU()(layers.Conv2D(4, 3, activation="tanh")(x)))
    x = layers.Conv2D(4, 1, activation="hard_swish")(layers.ReLU()(x))
    x = layers.BatchNormalization()(layers.Conv2D(4, 1, activation="relu6")(x))
    x = ops.gelu(layers.Dense(3)(layers.GlobalMaxPooling2D()(x)))
    return layers.Activation("sigmoid")(layers.Dense(3)(x))


def merging(x):
    a, b = (layers.Conv2D(4, 3, padding="same")(x) for _ in range(2))
    joined = [layers.Add()([a, b]), layers.Multiply()([a, b]), layers.Maximum()([a, b])]
    joined.append(layers.ReLU()(layers.Subtract()([a, b])))
    return layers.Concatenate()(joined)


def moving(x):
    x = layers.ZeroPadding2D(1)(layers.Rescaling(1 / 255, offset=-0.5)(x))
    x = layers.Conv2D(4, 3, strides=2)(layers.Cropping2D(1)(x))
    x = layers.AveragePooling2D(2)(layers.UpSampling2D(interpolation="bilinear")(x))
    x = layers.Conv2D(5, 3, activation="gelu")(layers.UpSampling2D()(x))
    x = layers.SeparableConv2D(6, 3, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(3, 3, strides=2)(x)
    return layers.Dense(2)(ops.take(layers.Flatten()(x), [1, 3, 5, 7], axis=1))


def repeating(x):
    x = layers.RepeatVector(3)(layers.Dense(4)(layers.Flatten()(x)))
    return layers.Conv1D(2, 3)(layers.UpSampling1D(2)(x))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (repeating, (6,)),
        (one_dimension, (20, 4)),
        (activations, (12, 12, 3)),
        (merging, (8, 8, 3)),
        (moving, (12, 12, 3)),
    ],
)
def test_layer_families(build, shape, real):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build(inputs))
    assert lowered(model) == converted(real(model))


def test_a_tensor_that_others_read_is_not_fused_away(real):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    model = keras.Model(inputs, layers.Add()([x, layers.ReLU()(x)]))
    assert lowered(model) == converted(real(model))


def test_an_unknown_layer_is_one_operator_until_it_is_taught():
    class Odd(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(shape[-1], 5))

        def call(self, x):
            return x @ self.table

        def compute_output_shape(self, shape):
            return (*shape[:-1], 5)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Odd(name="odd")(inputs))
    assert lowered(model) == [("ODD", [(4, 5)], [(1, 5)])]

    @register_lowering(Odd)
    def _odd(layer, call, lowering):
        return lowering.add("FULLY_CONNECTED", call, lowering.inputs(call), None, [weight(5, 4)])

    assert lowered(model) == [("FULLY_CONNECTED", [(5, 4)], [(1, 5)])]
