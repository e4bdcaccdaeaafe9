"""Where following channels carelessly would prune wrongly: exact, or kept with a reason."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import keras_dynhp as dynhp
from benchmarks.exactness import check, difference, outputs_of, random_inputs, randomize

ROUNDING = 1e-5
rng = np.random.default_rng(0)


def neurons(shape=(6, 8), name="stem"):
    inputs = keras.Input((*shape[:-1], 3))
    return inputs, L.Dense(shape[-1], name=name)(inputs)


def model_of(inputs, x):
    x = L.Flatten()(x) if len(x.shape) > 2 else x
    return keras.Model(inputs, L.Dense(3)(x))


def exact(inputs, x, prunable=None, data=None):
    """Masks at several shares; whether the stem may go is checked where it is known."""
    for seed, share in enumerate((0.3, 0.6, 0.95)):
        found = check(model_of(inputs, x), share=share, seed=seed, inputs=data)
        assert found.copy_error <= ROUNDING
        assert found.error <= ROUNDING
    names = {layer for group in found.groups for layer in group.layers}
    kept = {layer for group in found.groups.kept for layer in group.layers}
    if prunable is not None:
        assert ("stem" in names) == prunable
        assert prunable or "stem" in kept
    return found


# ---- subclasses that compute something else ------------------------------------------------------


class Standardized(L.Conv1D):
    """Standardizes its kernel over its inputs: a removed one would change the others."""

    def convolution_op(self, inputs, kernel):
        kernel = kernel - ops.mean(kernel, axis=(0, 1), keepdims=True)
        return super().convolution_op(inputs, kernel)


class Absolute(L.Dense):
    @property
    def kernel(self):
        return ops.softmax(super().kernel, axis=0)


class Renamed(L.Dense):
    """Only its configuration is its own."""

    def __init__(self, units, note="", **kwargs):
        super().__init__(units, **kwargs)
        self.note = note

    def get_config(self):
        return {**super().get_config(), "note": self.note}


@pytest.mark.parametrize("layer", [Standardized(5, 3), Absolute(5)])
def test_a_subclass_that_works_in_another_way_is_a_barrier(layer):
    inputs, x = neurons()
    found = exact(inputs, layer(x), prunable=False)
    assert "its own" in found.groups.barriers[layer.name]


def test_a_subclass_with_another_configuration_is_followed():
    inputs, x = neurons()
    found = exact(inputs, Renamed(5, note="mine", name="renamed")(x), prunable=True)
    assert found.small.get_layer("renamed").note == "mine"


# ---- masks put by hand, and what is between them and the reader ----------------------------------


def masked_by_hand(*between):
    mask = dynhp.NeuronMask(4, name="by_hand")
    model = keras.Sequential(
        [keras.Input((6,)), L.Dense(4, name="stem"), mask, *between, L.Dense(3, name="reader")]
    )
    randomize(model)
    mask.mask.assign([1, 0, 1, 0])
    return model


@pytest.mark.parametrize(
    "layer",
    [
        L.ReLU(),
        L.ReLU(threshold=1.0),
        L.ReLU(negative_slope=0.1),
        L.Activation("gelu"),
        L.Activation("tanh"),
        L.PReLU(),
        L.Dropout(0.5),
    ],
)
def test_zero_stays_zero(layer):
    model = masked_by_hand(layer)
    small = dynhp.rebuild(model)
    assert small.get_layer("stem").units == 2
    data = random_inputs(model)
    assert difference(outputs_of(model, data), outputs_of(small, data)) <= ROUNDING


@pytest.mark.parametrize(
    "layer",
    [
        L.ReLU(threshold=1.0, negative_slope=0.1),
        L.Activation("sigmoid"),
        L.BatchNormalization(),
        L.Rescaling(1.0, offset=0.5),
    ],
)
def test_zero_becomes_something_else(layer):
    with pytest.raises(ValueError, match="by_hand: zeroes neurons that can't be removed"):
        dynhp.rebuild(masked_by_hand(layer))


# ---- channels on another axis than the layer's ---------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        L.DepthwiseConv2D(3, padding="same"),
        L.Conv2D(6, 3, groups=3, padding="same"),
        L.SeparableConv2D(4, 3, padding="same"),
        L.Conv2D(4, 3),
        L.MaxPooling2D(),
        L.UpSampling2D(),
        L.ZeroPadding2D(1),
        L.GroupNormalization(3),
        L.BatchNormalization(),
        L.LayerNormalization(),
        L.PReLU(),
        L.GlobalAveragePooling2D(),
    ],
    ids=lambda layer: type(layer).__name__ + str(getattr(layer, "groups", "")),
)
def test_layers_on_permuted_maps(layer):
    inputs, x = neurons((5, 6, 8))
    exact(inputs, layer(L.Permute((3, 1, 2))(x)))


# ---- one layer, one call that can shrink and one that can't --------------------------------------


@pytest.mark.sweep("True")
@pytest.mark.parametrize(
    "layer",
    [
        L.BatchNormalization(),
        L.PReLU(),
        L.GroupNormalization(4),
        L.GroupNormalization(-1),
        L.Reshape((12, 4)),
        L.Reshape((3, 2, 8)),
        L.DepthwiseConv1D(3),
        L.Conv1D(8, 3, groups=8),
        L.Conv1D(8, 3, groups=2),
        L.EinsumDense("abc,cd->abd", (6, 5)),
        L.Dropout(0.5, noise_shape=(None, 1, 8)),
        L.MultiHeadAttention(2, 3),
        L.LSTM(4, return_sequences=True),
    ],
    ids=lambda layer: layer.name,
)
@pytest.mark.parametrize("first", [True, False])
def test_a_layer_shared_with_channels_that_stay(layer, first):
    layer = type(layer).from_config(layer.get_config())
    inputs, x = neurons()
    fixed = L.LayerNormalization()(L.Dense(8, name="fixed")(inputs))
    pair = [x, fixed] if first else [fixed, x]
    attention = isinstance(layer, L.MultiHeadAttention)
    results = [layer(one, one) if attention else layer(one) for one in pair]
    exact(inputs, L.Concatenate()([L.Flatten()(y) for y in results]))


def test_a_batch_normalization_shared_with_channels_that_stay_keeps_all():
    """With one channel left it would have been broadcast over the others, silently."""
    inputs, x = neurons((2,))
    shared = L.BatchNormalization()
    fixed = L.Softmax()(L.Dense(2)(inputs))
    x = L.Concatenate()([shared(x), shared(fixed)])
    exact(inputs, x, prunable=False)


# ---- keras.ops.add takes some operands for biases ------------------------------------------------


@pytest.mark.parametrize(
    ("constant", "prunable"),
    [((6, 1), False), ((1, 6, 1), False), ((9, 1), True), ((6, 8), False), ((1,), True)],
)
def test_constants_per_position(constant, prunable):
    inputs, x = neurons((constant[-2] if len(constant) > 1 and constant[-1] == 1 else 6, 8))
    exact(inputs, x + rng.normal(size=constant).astype("float32"), prunable)


def test_positions_that_may_be_taken_for_channels():
    """Left with 6 of 8 channels, Keras would add the 6 positions' numbers to them."""
    inputs, x = neurons((6, 8))
    constant = rng.normal(size=(6, 1)).astype("float32")
    model = model_of(inputs, x + constant)
    keep = [1, 1, 1, 0, 1, 1, 0, 1]
    groups = dynhp.find_groups(model)
    (kept,) = [group for group in groups.kept if group.name == "stem"]
    assert "wrong axis" in kept.reason
    # The mistake itself, as long as Keras makes it.
    wrong = ops.add(np.zeros((1, 6, 6), "float32"), constant)
    assert not np.allclose(wrong, np.zeros((1, 6, 6)) + constant)
    assert sum(keep) == 6


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("turn", [False, True])
def test_a_sum_with_one_number_per_position(batch, turn):
    inputs, x = neurons((6, 8))
    y = L.Dense(1)(inputs)
    x = L.Add()([y, x] if turn else [x, y])
    exact(inputs, x, data=random_inputs(model_of(inputs, x), batch=batch))


def test_a_gate_per_channel_is_added():
    inputs, x = neurons((5, 6, 8))
    gate = L.Dense(8)(L.GlobalAveragePooling2D(keepdims=True)(x))
    found = exact(inputs, L.Add()([x, gate]), prunable=True)
    assert found.groups["stem"].size == 8


def test_sequences_of_unknown_length_are_added():
    inputs = keras.Input((None, 3))
    x = L.Dense(8, name="stem")(inputs)
    x = L.Add()([x, L.Dense(8)(L.Dense(4)(x))])
    exact(inputs, L.GlobalAveragePooling1D()(x), prunable=True)


# ---- constants with a number per channel ---------------------------------------------------------

PER_CHANNEL = np.linspace(-1.0, 1.0, 8).astype("float32")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ops.clip(x, PER_CHANNEL - 1, PER_CHANNEL),
        lambda x: x * PER_CHANNEL,
        lambda x: ops.maximum(PER_CHANNEL, x),
        lambda x: ops.where(x > PER_CHANNEL, x, 0.0),
        lambda x: ops.power(ops.abs(x), ops.abs(PER_CHANNEL)),
        lambda x: ops.matmul(x, rng.normal(size=(8, 4)).astype("float32")),
        lambda x: ops.einsum("btc,cd->btd", x, rng.normal(size=(8, 4)).astype("float32")),
        lambda x: L.Rescaling([0.5] * 8)(x),
        lambda x: L.Concatenate()([x[..., :1] * PER_CHANNEL, x * PER_CHANNEL]),
    ],
)
def test_constants_per_channel(function):
    inputs, x = neurons()
    exact(inputs, function(x), prunable=False)


def test_clipping_between_numbers_is_followed():
    inputs, x = neurons()
    exact(inputs, ops.clip(x, -0.5, 0.5), prunable=True)


# ---- activations, softmax, padding, nothing left -------------------------------------------------


def over_rows(x):
    return ops.softmax(x, axis=1)


def test_an_unknown_activation_may_mix_any_axis():
    """The channels lie on axis 1, over which the function mixes."""
    inputs, x = neurons((6, 8))
    x = L.Activation(over_rows)(L.Permute((2, 1))(x))
    exact(inputs, x, prunable=False)


@pytest.mark.parametrize("axis", [None, 1, -1, (1, 2)])
def test_softmax_over(axis):
    inputs, x = neurons((6, 8))
    if isinstance(axis, tuple):
        exact(inputs, L.Softmax(axis=axis)(x), prunable=False)
    elif axis is not None:
        exact(inputs, ops.softmax(x, axis=axis), prunable=axis == 1)
    else:
        groups = dynhp.find_groups(model_of(inputs, ops.reshape(ops.softmax(x, None), (-1, 48))))
        assert "mixes channels" in next(iter(groups.barriers.values()))


@pytest.mark.parametrize("activation", ["softmax", "log_softmax", "sparsemax"])
@pytest.mark.parametrize("layer", [L.Dense, L.Conv1D])
def test_activations_that_mix_the_neurons_of_a_layer(layer, activation):
    inputs, x = neurons((6, 8))
    extra = () if layer is L.Dense else (3,)
    found = exact(inputs, layer(5, *extra, activation=activation, name="mix")(x), prunable=True)
    assert "mix" in {group.name for group in found.groups.kept}


@pytest.mark.parametrize("mode", ["constant", "reflect", "symmetric"])
def test_padding_with_numbers(mode):
    inputs, x = neurons((6, 8))
    value = {"constant_values": 3.0} if mode == "constant" else {}
    exact(inputs, ops.pad(x, [[0, 0], [1, 2], [0, 0]], mode, **value), prunable=True)
    exact(inputs, ops.pad(x, [[0, 0], [0, 0], [1, 2]], mode, **value), prunable=False)


def test_biases_and_shifts_in_front_of_padding():
    """What a masked neuron's bias and statistics would have given must not come through."""
    inputs, x = neurons((6, 6, 8))
    x = L.ReLU()(L.BatchNormalization()(x))
    x = L.AveragePooling2D(3, strides=1, padding="same")(L.ZeroPadding2D(2)(x))
    exact(inputs, L.Conv2D(4, 3, padding="same")(x), prunable=True)


def test_a_taken_channel_that_stands_for_all():
    inputs, x = neurons((6, 8))
    exact(inputs, x * ops.take(x, [3], axis=-1), prunable=True)
    exact(inputs, x + ops.take(x, [2, 2, 2, 2, 2, 2, 2, 2], axis=-1))


def test_all_taken_channels_may_not_go():
    inputs, x = neurons((6, 8))
    y = ops.take(x, [5, 1], axis=-1)
    x = L.Concatenate()([L.Flatten()(L.LayerNormalization()(L.Dense(4)(y))), L.Flatten()(x)])
    exact(inputs, x, prunable=True)


# ---- masks of steps ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [L.SimpleRNN, L.GRU, L.LSTM])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_masking_in_front_of_recurrent_layers(kind, value):
    """Data with steps of nothing but the mask's value, which are skipped."""
    inputs = keras.Input((5, 3))
    x = L.Bidirectional(kind(4, return_sequences=True))(L.Masking(value)(inputs))
    x = kind(3, name="last")(x)
    model = keras.Model(inputs, L.Dense(2)(x))
    data = random_inputs(model)
    data[:, 3:] = value
    found = check(model, inputs=data)
    assert found.copy_error <= ROUNDING and found.error <= ROUNDING
    assert "last" in {group.name for group in found.groups}


def test_masking_of_neurons():
    inputs, x = neurons((5, 8))
    x = L.LSTM(4)(L.Masking()(L.ReLU()(x)))
    exact(inputs, x, prunable=True)


def test_a_mask_made_of_neurons():
    inputs, x = neurons((5, 8))
    mask = L.Dense(8, name="mask")(inputs) > 0
    x = L.Softmax(axis=1)(x, mask=mask)
    found = exact(inputs, x)
    (kept,) = [group for group in found.groups.kept if group.name == "mask"]
    assert "given as a mask" in kept.reason


def test_sums_of_truths():
    inputs, x = neurons((5, 8))
    exact(inputs, ops.cast(ops.any(x > 1.0, axis=-1), "float32"), prunable=True)
    exact(inputs, ops.sum(x > 0.0, axis=-1), prunable=True)
    exact(inputs, ops.cast(ops.all(x > -1.0, axis=-1), "float32"), prunable=False)


def test_a_constant_initial_state_keeps_the_units():
    inputs = keras.Input(batch_shape=(2, 5, 3))
    state = np.ones((2, 4), "float32")
    x = L.GRU(4, name="stem")(inputs, initial_state=state)
    exact(inputs, x, prunable=False)


# ---- selection and order -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ops.cumsum(x, axis=-1),
        lambda x: ops.sort(x, axis=-1),
        lambda x: ops.logsumexp(x, axis=-1),
        lambda x: ops.max(x, axis=-1),
        lambda x: ops.mean(x, axis=-1),
        lambda x: ops.var(x, axis=-1),
        lambda x: ops.top_k(x, 2)[0],
        lambda x: ops.argmax(x, axis=-1),
        lambda x: ops.prod(x, axis=-1),
        lambda x: x[..., ::2],
        lambda x: x[..., -3:] * x[..., :3],
        lambda x: ops.roll(x, 2, axis=-1),
        lambda x: ops.tile(x, [1, 1, 2]),
        lambda x: ops.repeat(x, 2, axis=-1),
        lambda x: ops.glu(x),
        lambda x: L.UnitNormalization()(x),
        lambda x: L.UnitNormalization(axis=1)(x),
        lambda x: ops.stack([x[..., :4], x[..., 4:]], axis=-1),
        lambda x: L.Subtract()([x, ops.flip(x, axis=-1)]),
        lambda x: ops.reshape(x, (-1, 8)) * 2.0,
        lambda x: ops.einsum("btc,btd->btcd", x, x),
        lambda x: ops.matmul(ops.transpose(x, (0, 2, 1)), x),
        lambda x: L.Dot(axes=1)([x, x]),
        lambda x: L.Attention()([x, x]),
    ],
)
def test_operations_on_channels_are_exact_or_barriers(function):
    inputs, x = neurons()
    x = function(x)
    if keras.backend.standardize_dtype(x.dtype) != "float32":
        x = ops.cast(x, "float32")
    if x.shape[0] is None and len(x.shape) == 2 and x.shape[1] == 8:  # batch and steps joined
        x = ops.reshape(x, (-1, 6, 8))
    exact(inputs, x)
