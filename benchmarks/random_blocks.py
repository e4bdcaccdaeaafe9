"""The blocks that random graphs are made of: functions of a drawing and one of its tensors.

A block returns a new tensor, or None where it doesn't fit. BLOCKS maps its name to the ranks of
the tensors it takes and itself.
"""

from __future__ import annotations

from keras import layers as L
from keras import ops

MAP, SEQUENCE, VECTOR = 4, 3, 2
BLOCKS: dict[str, tuple[tuple[int, ...], object]] = {}


def block(*ranks: int):
    def register(function):
        BLOCKS[function.__name__] = (ranks, function)
        return function

    return register


def width(drawing) -> int:
    return drawing.pick([2, 3, 4, 6, 8])


def flag(drawing) -> bool:
    return bool(drawing.choose(2))


# ---- layers that make neurons -------------------------------------------------------------------


@block(VECTOR, SEQUENCE, MAP)
def dense(d, x):
    return L.Dense(width(d), activation=d.pick(["relu", "tanh", None]), use_bias=flag(d))(x)


@block(MAP)
def convolution(d, x):
    return L.Conv2D(width(d), d.pick([1, 3]), padding="same", strides=d.pick([1, 1, 2]))(x)


@block(MAP)
def grouped_convolution(d, x):
    channels = x.shape[-1]
    groups = d.pick([g for g in (2, 3, 4, 8) if channels % g == 0] or [1])
    return L.Conv2D(groups * d.pick([1, 2, 3]), 3, padding="same", groups=groups)(x)


@block(MAP)
def transposed_convolution(d, x):
    return L.Conv2DTranspose(width(d), 2)(x) if x.shape[1] < 12 else None


@block(MAP)
def depthwise_convolution(d, x):
    return L.DepthwiseConv2D(3, padding="same", depth_multiplier=d.pick([1, 1, 2]))(x)


@block(MAP)
def separable_convolution(d, x):
    return L.SeparableConv2D(width(d), 3, padding="same")(x)


@block(SEQUENCE)
def convolution_1d(d, x):
    return L.Conv1D(width(d), 3, padding="same", activation="relu")(x)


@block(SEQUENCE)
def recurrent(d, x):
    layer = d.pick([L.SimpleRNN, L.GRU, L.LSTM])(d.pick([2, 3, 4]), return_sequences=flag(d))
    return L.Bidirectional(layer, merge_mode=d.pick(["concat", "sum"]))(x) if flag(d) else layer(x)


@block(SEQUENCE)
def multi_head_attention(d, x):
    if flag(d):
        return L.GroupQueryAttention(2, 4, 2)(x, d.partner(x) if d.partner(x) is not None else x)
    return L.MultiHeadAttention(d.pick([2, 3]), 3, value_dim=d.pick([2, 4]))(x, x)


@block(SEQUENCE)
def einsum_dense(d, x):
    equation, shape, bias = d.pick(
        [
            ("abc,cd->abd", (x.shape[1], 4), "d"),
            ("abc,bd->adc", (3, x.shape[2]), None),
            ("abc,bcd->abd", (x.shape[1], 4), "bd"),
            ("...c,cd->...d", (5,), "d"),
        ]
    )
    return L.EinsumDense(equation, shape, bias_axes=bias, activation="tanh")(x)


@block(SEQUENCE, MAP)
def at_every_step(d, x):
    inner = L.Dense(width(d)) if len(x.shape) == 3 else L.Conv1D(width(d), 2, padding="same")
    return L.TimeDistributed(inner)(x)


# ---- layers that keep neurons where they are ----------------------------------------------------


@block(VECTOR, SEQUENCE, MAP)
def batch_normalization(d, x):
    return L.BatchNormalization(scale=flag(d), center=flag(d))(x)


@block(VECTOR, SEQUENCE, MAP)
def activation(d, x):
    return d.pick(
        [
            L.ReLU(),
            L.Activation("gelu"),
            L.LeakyReLU(),
            L.PReLU(shared_axes=list(range(1, len(x.shape) - 1)) or None),
            L.PReLU(),
            L.Dropout(0.5),
            L.UnitNormalization(),
        ]
    )(x)


@block(VECTOR, SEQUENCE, MAP)
def mixing_normalization(d, x):
    channels = x.shape[-1]
    return d.pick(
        [
            L.LayerNormalization(),
            L.RMSNormalization(),
            L.GroupNormalization(d.pick([g for g in (1, 2, 3, 4) if channels % g == 0])),
            L.Softmax(),
        ]
    )(x)


@block(MAP)
def pooling(d, x):
    kind = d.pick([L.MaxPooling2D, L.AveragePooling2D])
    return kind(2, strides=d.pick([1, 2]), padding="same")(x)


@block(MAP)
def space(d, x):
    if x.shape[1] > 10 or x.shape[1] < 3:
        return None
    return d.pick([L.ZeroPadding2D(1), L.Cropping2D(1), L.UpSampling2D(2)])(x)


@block(SEQUENCE, MAP)
def global_pooling(d, x):
    if len(x.shape) == 4:
        return d.pick([L.GlobalAveragePooling2D, L.GlobalMaxPooling2D])(keepdims=flag(d))(x)
    return L.GlobalAveragePooling1D()(x)


# ---- merges -------------------------------------------------------------------------------------


@block(VECTOR, SEQUENCE, MAP)
def merge(d, x):
    other = d.partner(x)
    if other is None:
        return None
    d.read.add(id(other))
    return d.pick([L.Add, L.Multiply, L.Maximum, L.Subtract, L.Average])()([x, other])


@block(VECTOR, SEQUENCE, MAP)
def arithmetic(d, x):
    other = d.partner(x)
    if other is None:
        return x * 2.0 + 1.0
    d.read.add(id(other))
    return d.pick([lambda: x * 0.5 + other, lambda: ops.where(x > other, x, other)])()


@block(VECTOR, SEQUENCE, MAP)
def concatenation(d, x):
    fitting = [
        y for y in d.tensors if len(y.shape) == len(x.shape) and y.shape[:-1] == x.shape[:-1]
    ]
    other = d.pick(fitting)
    d.read.add(id(other))
    return L.Concatenate()([x, other])


@block(MAP, SEQUENCE)
def residual(d, x):
    channels = x.shape[-1]
    rank = len(x.shape)
    make = L.Conv2D if rank == 4 else L.Conv1D
    y = make(width(d), 3, padding="same", activation="relu")(x)
    y = L.BatchNormalization()(make(channels, 1)(y))
    return L.Add()([x, y])


@block(MAP)
def squeeze_and_excitation(d, x):
    y = L.GlobalAveragePooling2D()(x)
    y = L.Dense(width(d), activation="relu")(y)
    y = L.Dense(x.shape[-1], activation="sigmoid")(y)
    return L.Multiply()([x, L.Reshape((1, 1, x.shape[-1]))(y)])


@block(VECTOR, SEQUENCE, MAP)
def shared_layer(d, x):
    """One layer called twice: in a row, or on two tensors."""
    layer = L.Dense(x.shape[-1], activation="tanh")
    other = d.partner(x)
    if other is None:
        return layer(layer(x))
    d.read.add(id(other))
    return L.Add()([layer(x), layer(other)])


@block(SEQUENCE)
def attention(d, x):
    other = d.partner(x)
    if other is not None:
        d.read.add(id(other))
    value = x if other is None else other
    return d.pick([L.Attention(use_scale=True), L.AdditiveAttention()])([x, value])


@block(SEQUENCE)
def product(d, x):
    other = d.partner(x)
    other = x if other is None else other
    d.read.add(id(other))
    return d.pick(
        [
            lambda: ops.matmul(x, ops.transpose(other, (0, 2, 1))),
            lambda: ops.einsum("btc,bsc->bts", x, other),
            lambda: ops.einsum("btc,btc->bc", x, other),
            lambda: L.Dot(axes=-1)([x, other]),
            lambda: L.Dot(axes=1)([x, other]),
        ]
    )()


# ---- data movement ------------------------------------------------------------------------------


@block(SEQUENCE, MAP)
def flatten(d, x):
    return L.Flatten()(x)


@block(SEQUENCE, MAP)
def permutation(d, x):
    orders = {3: [(2, 1)], 4: [(3, 1, 2), (2, 1, 3), (1, 3, 2)]}
    return L.Permute(d.pick(orders[len(x.shape)]))(x)


@block(MAP)
def to_sequence(d, x):
    return L.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x)


@block(VECTOR)
def to_steps(d, x):
    if flag(d):
        return L.RepeatVector(3)(x)
    divisors = [n for n in (1, 2, 3, 4) if x.shape[1] % n == 0]
    return L.Reshape((d.pick(divisors), -1))(x)


@block(MAP, SEQUENCE)
def channel_shuffle(d, x):
    channels = x.shape[-1]
    groups = d.pick([g for g in (2, 3, 4) if channels % g == 0] or [1])
    before = tuple(x.shape[1:-1])
    rank = len(x.shape)
    y = ops.reshape(x, (-1, *before, groups, channels // groups))
    y = ops.transpose(y, (*range(rank - 1), rank, rank - 1))
    return ops.reshape(y, (-1, *before, channels))


@block(VECTOR, SEQUENCE, MAP)
def split(d, x):
    if x.shape[-1] < 2:
        return None
    at = 1 + d.choose(x.shape[-1] - 1)
    one, other = ops.split(x, [at], axis=-1)
    return d.pick([lambda: one, lambda: other, lambda: L.Concatenate()([other, one])])()


@block(VECTOR, SEQUENCE, MAP)
def slices(d, x):
    start = d.choose(x.shape[-1])
    part = x[..., start : start + 1 + d.choose(x.shape[-1] - start)]
    return part if flag(d) else ops.concatenate([part, x], axis=-1)


@block(SEQUENCE, MAP)
def positions(d, x):
    return d.pick(
        [
            lambda: x[:, ::2],
            lambda: ops.flip(x, axis=1),
            lambda: ops.repeat(x, 2, axis=1) if x.shape[1] < 10 else x[:, :3],
            lambda: ops.take(x, [0], axis=1),
        ]
    )()


@block(VECTOR, SEQUENCE, MAP)
def selection(d, x):
    picked = [d.choose(x.shape[-1]) for _ in range(1 + d.choose(4))]
    return d.pick([lambda: ops.take(x, picked, axis=-1), lambda: ops.flip(x, axis=-1)])()


@block(VECTOR, SEQUENCE, MAP)
def stacking(d, x):
    other = d.partner(x)
    if len(x.shape) == 4 or other is None:
        return None
    d.read.add(id(other))
    return ops.stack([x, other], axis=1)


@block(SEQUENCE, MAP)
def reduction(d, x):
    return d.pick(
        [
            lambda: ops.mean(x, axis=1),
            lambda: ops.max(x, axis=1),
            lambda: ops.sum(x, axis=-1),
            lambda: ops.mean(x, axis=-1),
        ]
    )()


@block(VECTOR, SEQUENCE, MAP)
def barrier(d, x):
    return d.pick([L.Lambda(lambda y: y * 2.0), L.Softmax()])(x) if d.choose(3) == 0 else None
