"""The estimate from the graph: its parts, what they depend on, and what it refuses."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

from examples.networks import lenet_5
from keras_dynhp.memory import estimate_memory, largest_batch
from keras_dynhp.memory.estimate import StepMemory
from keras_dynhp.memory.machine import Machine
from keras_dynhp.memory.tape import variable_size

PLAIN = Machine(threads=2, workers=2, onednn=False)
ONEDNN = Machine(threads=2, workers=2, onednn=True)


def mlp(*widths):
    hidden = [L.Dense(width, "relu") for width in widths]
    return keras.Sequential([keras.Input((784,)), *hidden, L.Dense(10)])


def cnn(filters=8):
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            L.Conv2D(filters, 3, padding="same", use_bias=False),
            L.BatchNormalization(),
            L.ReLU(),
            L.MaxPooling2D(),
            L.Flatten(),
            L.Dense(10),
        ]
    )


def compiled(model, loss="sparse_categorical_crossentropy", optimizer="adam"):
    model.compile(optimizer, loss)
    return model


def test_an_unlucky_step_counts_where_orders_change_from_step_to_step():
    """With TensorFlow's own kernels runs of `fit` measure 43.6 MB, or 58.1 to 60.8 MB."""
    with_luck = StepMemory(lenet_5(), "adam", PLAIN).at(32).total
    assert 0.95 * 60.8e6 < with_luck < 1.4 * 43.6e6
    # Where nothing overlaps there is one order.
    alone = StepMemory(lenet_5(), "adam", Machine(threads=1, workers=2)).at(32).total
    assert alone < 0.85 * with_luck


def test_the_parts_are_what_they_say():
    model = compiled(mlp(300, 100))
    parameters = model.count_params()
    estimate = estimate_memory(model, 32)
    assert estimate.weights == estimate.gradients == 4 * parameters
    assert estimate.optimizer == 8 * parameters
    assert estimate.inputs == 32 * (784 * 4 + 8)
    # Both hidden layers after relu, and what the loss keeps.
    assert estimate.activations == 32 * 4 * (300 + 100 + 10)
    parts = estimate.to_dict()
    assert parts.pop("total") == estimate.total == sum(parts.values())
    assert all(type(part) is int and part >= 0 for part in parts.values())
    assert "workspace" in str(estimate)


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ([L.Dense(8)], 0),
        ([L.Dense(8, "relu")], 8 * 4),
        ([L.Dense(8), L.ReLU()], 8 * 4),
        ([L.Dense(8, "silu")], 2 * 8 * 4),
        ([L.Dense(8, "relu"), L.Dropout(0.5)], 8 * 4 + 8 + 8 * 4),  # and mask, and what it makes
        ([L.Dense(8, "relu"), L.Flatten(), L.Reshape((2, 4)), L.Flatten()], 8 * 4),
        ([L.Dense(8), L.BatchNormalization()], 8 * 4 + 8 * 4),
    ],
)
def test_activations_are_what_the_backward_pass_reads(layers, kept):
    model = keras.Sequential([keras.Input((5,)), *layers, L.Dense(3)])
    feeds_the_last_layer = 0 if kept else 8 * 4
    estimate = StepMemory(model, "sgd", PLAIN).at(1)
    assert estimate.activations == kept + feeds_the_last_layer + 3 * 4


def test_what_is_frozen_keeps_nothing_and_needs_no_gradient():
    model = cnn()
    trained = StepMemory(model, "adam", PLAIN).at(64)
    for layer in model.layers[:-1]:
        layer.trainable = False
    frozen = StepMemory(model, "adam", PLAIN).at(64)
    assert frozen.activations == 64 * 4 * (8 * 8 * 8 + 10)
    assert frozen.gradients == 4 * model.layers[-1].count_params()
    assert frozen.optimizer == 2 * frozen.gradients
    assert frozen.total < 0.2 * trained.total


@pytest.mark.parametrize(("channels", "picked"), [(15, 4 * 4 * 15), (16, 0)])
def test_a_narrow_strided_convolution_of_size_1_keeps_what_it_picks(channels, picked):
    layers = [L.Conv2D(5, 1, strides=2), L.GlobalAveragePooling2D(), L.Dense(3)]
    model = keras.Sequential([keras.Input((8, 8, channels)), *layers])
    assert StepMemory(model, "sgd", PLAIN).at(1).activations == 4 * (picked + 5 + 3)


def test_max_pooling_keeps_what_its_kernels_read():
    model = cnn()
    image, pooled = 16 * 16 * 8, 8 * 8 * 8
    # The convolution's result, its normalized relu, the pooled, and the loss.
    kept = 4 * (2 * image + pooled + 10)
    assert StepMemory(model, "sgd", PLAIN).at(1).activations == kept
    assert StepMemory(model, "sgd", ONEDNN).at(1).activations == kept + pooled


def test_own_convolution_kernels_need_workspace_at_any_batch():
    small = StepMemory(cnn(), "sgd", PLAIN).at(2)
    assert small.workspace > 10 * 2**20
    assert StepMemory(cnn(), "sgd", ONEDNN).at(2).workspace < 2**20
    assert StepMemory(cnn(), "sgd", Machine(threads=1, gpu=True)).at(2).workspace < 2**20


OPTIMIZERS = [
    "SGD",
    "Adam",
    "AdamW",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Adamax",
    "Nadam",
    "Lion",
    "Ftrl",
    "Lamb",
    "Adafactor",
    "Muon",
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_of_an_unbuilt_optimizer_are_those_it_will_have(name):
    model = cnn()
    make = getattr(keras.optimizers, name)
    before = estimate_memory(model, 8, make()).optimizer
    optimizer = make()
    optimizer.build(model.trainable_variables)
    assert estimate_memory(model, 8, optimizer).optimizer == before
    held = sum(variable_size(variable).fixed for variable in optimizer.variables)
    # Beside its slots an optimizer has a count of iterations and a learning rate.
    assert held - 16 <= before <= held


def test_wrapped_and_averaging_optimizers():
    model = mlp(64)
    adam = estimate_memory(model, 8, "adam").optimizer
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    assert adam <= estimate_memory(model, 8, scaled).optimizer <= adam + 64
    averaged = estimate_memory(model, 8, keras.optimizers.Adam(use_ema=True)).optimizer
    assert averaged == adam // 2 * 3


def test_the_compiled_optimizer_is_the_default():
    model = mlp(64)
    without = estimate_memory(model, 8)
    assert without.optimizer == 0
    named = estimate_memory(model, 8, "adam")
    model.compile("adam", "mse")
    assert estimate_memory(model, 8) == named
    assert without.total < named.total


def test_gradients_are_given_back_as_variables_are_updated():
    deep = mlp(*16 * [256])
    estimate = StepMemory(deep, "sgd", PLAIN).at(1)
    together = StepMemory(deep, keras.optimizers.SGD(global_clipnorm=1.0), PLAIN).at(1)
    assert estimate.gradients < 0.8 * together.gradients
    assert together.gradients == together.weights


def test_labels_count_as_the_loss_takes_them():
    classes = estimate_memory(compiled(mlp(8)), 10).inputs
    assert classes == 10 * (784 * 4 + 8)
    same_shape = estimate_memory(compiled(mlp(8), "mse"), 10).inputs
    assert same_shape == 10 * (784 * 4 + 10 * 4)


def test_mixed_precision_halves_activations_and_keeps_weights():
    def build(policy):
        images = [L.Conv2D(8, 3, activation="relu", dtype=policy) for _ in range(3)]
        return keras.Sequential(
            [keras.Input((32, 32, 3)), *images, L.GlobalAveragePooling2D(), L.Dense(3)]
        )

    full = StepMemory(build("float32"), "adam", ONEDNN).at(64)
    half = StepMemory(build("mixed_float16"), "adam", ONEDNN).at(64)
    assert half.weights == full.weights
    assert 0.45 * full.activations < half.activations < 0.65 * full.activations
    assert half.total < full.total


def test_nested_models_count_as_flat_ones():
    def body(x):
        return L.BatchNormalization()(L.Conv2D(8, 3, activation="relu")(x))

    inputs = keras.Input((16, 16, 3))
    flat = keras.Model(inputs, L.Dense(2)(L.Flatten()(body(inputs))))
    inner = keras.Input((16, 16, 3))
    nested = keras.Sequential([inputs, keras.Model(inner, body(inner)), L.Flatten(), L.Dense(2)])
    assert StepMemory(nested, "adam", PLAIN).at(32) == StepMemory(flat, "adam", PLAIN).at(32)


def test_layers_equal_their_bare_operations():
    def build(add, multiply, relu):
        inputs = keras.Input((64,))
        x, y = L.Dense(512)(inputs), L.Dense(512)(inputs)
        return keras.Model(inputs, L.Dense(2)(relu(multiply(add(x, y), y))))

    layered = build(lambda a, b: L.Add()([a, b]), lambda a, b: L.Multiply()([a, b]), L.ReLU())
    bare = build(lambda a, b: a + b, lambda a, b: a * b, keras.ops.relu)
    assert StepMemory(layered, "sgd", PLAIN).at(256) == StepMemory(bare, "sgd", PLAIN).at(256)


class Strange(L.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],))

    def call(self, x):
        return keras.ops.sin(x) * self.scale


def test_a_layer_that_no_rule_knows_counts_generously():
    def build(layer):
        inputs = keras.Input((32, 64))
        return keras.Model(inputs, L.Dense(2)(layer(L.Dense(64)(inputs))))

    strange = StepMemory(build(Strange()), "sgd", PLAIN).at(128)
    known = StepMemory(build(L.Activation("silu")), "sgd", PLAIN).at(128)
    assert strange.total >= known.total
    assert strange.weights == known.weights + 64 * 4


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([PLAIN, ONEDNN]))
@settings(max_examples=60, deadline=None)
def test_a_larger_batch_never_needs_less(first, second, machine):
    low, high = sorted((first, second))
    for memory in _memories(machine):
        assert memory.at(low).total <= memory.at(high).total


_cache = {}


def _memories(machine):
    if machine not in _cache:
        _cache[machine] = [StepMemory(model, "adam", machine) for model in (mlp(300, 100), cnn())]
    return _cache[machine]


def test_the_same_model_always_gets_the_same_estimate():
    first, second = (StepMemory(cnn(), "adam", PLAIN) for _ in range(2))
    assert [first.at(n) for n in (1, 77, 500)] == [second.at(n) for n in (1, 77, 500)]


@pytest.mark.parametrize("budget", [2**17, 2**20, 2**24, 2**27])
def test_the_largest_batch_fits_and_the_next_does_not(budget):
    model = mlp(64)
    batch = largest_batch(model, budget, "adam")
    if batch:
        assert estimate_memory(model, batch, "adam").total <= budget
    assert estimate_memory(model, batch + 1, "adam").total > budget


def test_the_largest_batch_has_its_limits():
    assert largest_batch(mlp(64), 1000, "adam") == 0
    assert largest_batch(mlp(64), 2**30, "adam", maximum=100) == 100
    assert largest_batch(mlp(64), 2**60, "adam") == 2**20


def test_reading_the_graph_makes_no_slots():
    model = mlp(64)
    optimizer = keras.optimizers.Adam()
    estimate_memory(model, 8, optimizer)
    assert not optimizer.built


@pytest.mark.parametrize("batch", [0, -1, 2.0, True, None, "32"])
def test_bad_batch_sizes_are_refused(batch):
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        estimate_memory(mlp(8), batch)


def test_models_without_a_graph_or_with_open_lengths_are_refused():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="subclassed"):
        estimate_memory(Subclassed(), 8)
    with pytest.raises(ValueError, match="unbuilt"):
        estimate_memory(keras.Sequential([L.Dense(3)]), 8)
    open_length = keras.Sequential([keras.Input((None, 8)), L.Dense(3)])
    with pytest.raises(ValueError, match="unknown length"):
        estimate_memory(open_length, 8)


@pytest.mark.parametrize("model", [None, "model.keras"])
def test_what_is_no_model(model):
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model. Received: (str|NoneType)"):
        estimate_memory(model, 32)


def test_batch_sizes_of_numpy():
    model = keras.Sequential([keras.Input((6,)), L.Dense(8), L.Dense(2)])
    found = estimate_memory(model, np.int64(8), "adam")
    assert found == estimate_memory(model, 8, "adam")
    assert all(type(size) is int for size in found.to_dict().values())


def test_the_gradient_of_a_table_grows_with_what_is_looked_up_until_it_is_spread_out():
    """Adam's squares are a second copy of the looked up rows, however small the table is."""

    def total(batch, optimizer, table=30, lookups=1):
        ids = keras.Input((64,), dtype="int32")
        layer = L.Embedding(table, 32)
        pooled = [L.GlobalAveragePooling1D()(layer(ids)) for _ in range(lookups)]
        out = pooled[0] if lookups == 1 else L.Concatenate()(pooled)
        model = keras.Model(ids, L.Dense(10)(out))
        return StepMemory(model, optimizer, PLAIN).at(batch)

    rows = 1024 * 64 * 32 * 4
    assert total(1024, "adam").total > 2 * rows
    assert rows < total(1024, "sgd").total < 1.9 * rows
    assert total(1024, "adam", 5000).gradients == rows + 4 * (32 * 10 + 10)
    # A table that is looked up twice: the rows of both are joined.
    assert total(1024, "adam", 5000, 2).gradients == 2 * rows + 4 * (64 * 10 + 10)


def test_a_table_is_looked_up_in_its_own_type():
    """Keras casts the rows, not the table."""
    layers = [keras.Input((2,), dtype="int32"), L.Embedding(10**6, 8, dtype="mixed_float16")]
    model = keras.Sequential([*layers, L.Flatten(), L.Dense(3)])
    estimate = StepMemory(model, machine=PLAIN).at(1)
    assert estimate.total < 1.2 * estimate.weights


def _states():
    x = keras.Input((7, 6))
    _, h, _, back, _ = L.Bidirectional(L.LSTM(5, return_state=True))(x)
    return x, L.Concatenate()([h, back])


def _apart():
    x = keras.Input((7, 6))
    return x, L.Add()(L.Bidirectional(L.GRU(5), merge_mode=None)(x))


def _scores():
    x = keras.Input((7, 6))
    y, scores = L.MultiHeadAttention(3, 4)(x, x, return_attention_scores=True)
    return x, L.Concatenate()([L.Flatten()(y), L.Flatten()(scores)])


def _stacked():
    x = keras.Input((7, 6))
    return x, L.RNN([L.LSTMCell(5), L.GRUCell(4)])(x)


def _adapted():
    x, layer = keras.Input((7,)), L.Dense(6, "relu")
    y = layer(x)
    layer.enable_lora(2)
    return x, y


@pytest.mark.parametrize("make", [_states, _apart, _scores, _stacked, _adapted])
def test_layers_with_several_outputs_cells_and_adapters(make):
    inputs, x = make()
    model = keras.Model(inputs, L.Dense(2)(x))
    small, large = (estimate_memory(model, batch, "adam") for batch in (8, 512))
    assert small.weights < small.total <= large.total
    assert large.activations >= 512 * 4 * x.shape[-1]
