"""What the channel tracing follows: one case for every layer and kind of operation.

A case makes a block of layers that stands between a stem (which makes neurons) and a head (which
reads them). `through` says what becomes of the stem's neurons, `own` of those that the block makes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers as L
from keras import ops

PRUNED, KEPT, NONE = "pruned", "kept", ""
MAP, SEQUENCE, VECTOR = (6, 6, 8), (6, 8), (8,)
STEPS = (3, 8)  # the first, the last and one between them: loops over time run step by step
VOLUME, TOKENS, MOVIE = (4, 4, 4, 8), "tokens", (3, 6, 6, 8)
# Keras 3.12, the newest for Python 3.10, is without.
HAS_ADAPTIVE_POOLING = hasattr(L, "AdaptiveAveragePooling2D")


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the support matrix. `make` returns a function of one tensor."""

    name: str
    shape: tuple | str
    make: Callable
    through: str = PRUNED
    own: str = NONE
    family: str = ""
    without: tuple[str, ...] = ()  # contexts that TensorFlow can't run on a CPU

    @property
    def barrier(self) -> bool:
        return self.through == KEPT and self.own == NONE


CASES: list[Case] = []


def family(name: str, shape, *rows, through: str = PRUNED, own: str = NONE) -> None:
    """Add cases: `(name, make)` or `(name, make, {changes})`."""
    for row_name, make, *changes in rows:
        values = {"shape": shape, "through": through, "own": own, **(changes[0] if changes else {})}
        CASES.append(Case(row_name, make=make, family=name, **values))


def fresh(layer_class, *args, **kwargs):
    """Makes a new layer every time."""
    return lambda: layer_class(*args, **kwargs)


def bare(function):
    """A function of a tensor, without layers."""
    return lambda: function


def attend(layer_class, *args, **kwargs):
    def make():
        layer = layer_class(*args, **kwargs)
        return lambda x: layer(x, x)

    return make


def of_list(layer_class, *args, **kwargs):
    def make():
        layer = layer_class(*args, **kwargs)
        other = L.Dense(8)
        return lambda x: layer([x, other(x)])

    return make


def with_projection(function):
    """A function of the tensor and of a projection of it, of the same shape."""

    def make():
        other = L.Dense(8)
        return lambda x: function(x, other(x))

    return make


def constant(x):
    return ops.add(x, np.arange(8, dtype="float32"))


def shuffle(x):
    y = ops.reshape(x, (-1, 6, 6, 2, 4))
    return ops.reshape(ops.transpose(y, (0, 1, 2, 4, 3)), (-1, 6, 6, 8))


def squeeze_and_excitation():
    narrow, wide = L.Dense(4, activation="relu"), L.Dense(8, activation="sigmoid")
    pool, multiply, reshape = L.GlobalAveragePooling2D(), L.Multiply(), L.Reshape((1, 1, 8))
    return lambda x: multiply([x, reshape(wide(narrow(pool(x))))])


def time_distributed_model():
    inside = keras.Input((6, 6, 8))
    model = keras.Model(inside, L.GlobalAveragePooling2D()(L.Conv2D(5, 3)(inside)))
    return L.TimeDistributed(model)


def reversible():
    layer = L.ReversibleEmbedding(7, 8)
    dense = L.Dense(8, activation="relu")
    return lambda x: layer(dense(layer(x)), reverse=True)


def masked_lstm():
    masking, lstm = L.Masking(), L.LSTM(5)
    return lambda x: lstm(masking(x))


def encoder_decoder():
    encoder, decoder = L.LSTM(5, return_state=True), L.LSTM(5)

    def run(x):
        _, *states = encoder(x)
        return decoder(x, initial_state=states)

    return run


makes = {"own": PRUNED}
family(
    "Dense and convolutions",
    MAP,
    ("Dense", fresh(L.Dense, 5, activation="relu"), {"shape": VECTOR}),
    (
        "EinsumDense",
        fresh(L.EinsumDense, "abc,cd->abd", (6, 5), bias_axes="d"),
        {"shape": (6, 8)},
    ),
    (
        "EinsumDense to two axes",
        fresh(L.EinsumDense, "abc,cde->abde", (6, 2, 5), bias_axes="de"),
        {"shape": SEQUENCE},
    ),
    (
        "EinsumDense along positions",
        fresh(L.EinsumDense, "abc,bd->adc", (4, 8)),
        {"shape": SEQUENCE, "own": NONE},
    ),
    (
        "EinsumDense along positions, with a bias",  # which Keras may add along the channels
        fresh(L.EinsumDense, "abc,bd->adc", (4, 8), bias_axes="d"),
        {"shape": SEQUENCE, "own": NONE, "through": KEPT},
    ),
    ("Conv1D", fresh(L.Conv1D, 5, 3), {"shape": SEQUENCE}),
    ("Conv2D", fresh(L.Conv2D, 5, 3, strides=2, padding="same")),
    ("Conv2D dilated", fresh(L.Conv2D, 5, 3, dilation_rate=2)),
    ("Conv2D, equally many of each group", fresh(L.Conv2D, 8, 3, groups=2)),
    ("Conv2D, whole groups", fresh(L.Conv2D, 8, 3, groups=4)),
    ("Conv2D, a group per channel", fresh(L.Conv2D, 16, 3, groups=8)),
    ("Conv3D", fresh(L.Conv3D, 5, 2), {"shape": VOLUME}),
    ("Conv1DTranspose", fresh(L.Conv1DTranspose, 5, 3), {"shape": SEQUENCE}),
    ("Conv2DTranspose", fresh(L.Conv2DTranspose, 5, 3, strides=2)),
    ("Conv3DTranspose", fresh(L.Conv3DTranspose, 5, 2), {"shape": VOLUME}),
    ("DepthwiseConv1D", fresh(L.DepthwiseConv1D, 3), {"shape": SEQUENCE, "own": NONE}),
    ("DepthwiseConv2D", fresh(L.DepthwiseConv2D, 3), {"own": NONE}),
    (
        "DepthwiseConv2D, depth multiplier",
        fresh(L.DepthwiseConv2D, 3, depth_multiplier=2),
        {"own": NONE},
    ),
    ("SeparableConv1D", fresh(L.SeparableConv1D, 5, 3), {"shape": SEQUENCE}),
    ("SeparableConv2D", fresh(L.SeparableConv2D, 5, 3, depth_multiplier=2)),
    own=PRUNED,
)
family(
    "Embeddings",
    TOKENS,
    ("Embedding", fresh(L.Embedding, 7, 8)),
    ("ReversibleEmbedding, tied", reversible),
    through=NONE,
    own=PRUNED,
)
family(
    "Recurrent",
    STEPS,
    ("SimpleRNN", fresh(L.SimpleRNN, 5)),
    ("SimpleRNN sequences", fresh(L.SimpleRNN, 5, return_sequences=True)),
    ("GRU", fresh(L.GRU, 5)),
    ("GRU, reset before", fresh(L.GRU, 5, reset_after=False, return_sequences=True)),
    ("LSTM", fresh(L.LSTM, 5)),
    ("LSTM sequences", fresh(L.LSTM, 5, return_sequences=True, go_backwards=True)),
    ("LSTM encoder and decoder", encoder_decoder),
    ("RNN(GRUCell)", lambda: L.RNN(L.GRUCell(5))),
    (
        "RNN(StackedRNNCells)",
        lambda: L.RNN(L.StackedRNNCells([L.LSTMCell(5), L.GRUCell(4), L.SimpleRNNCell(3)])),
    ),
    ("Masking and LSTM", masked_lstm),
    ("Bidirectional concat", lambda: L.Bidirectional(L.LSTM(5))),
    (
        "Bidirectional sum",
        lambda: L.Bidirectional(L.GRU(5, return_sequences=True), merge_mode="sum"),
    ),
    ("ConvLSTM1D", fresh(L.ConvLSTM1D, 5, 3), {"shape": (3, 6, 8)}),
    ("ConvLSTM2D", fresh(L.ConvLSTM2D, 4, 3, return_sequences=True), {"shape": MOVIE}),
    ("ConvLSTM3D", fresh(L.ConvLSTM3D, 4, 2), {"shape": (2, 3, 3, 3, 8)}),
    ("TimeDistributed(Conv2D)", lambda: L.TimeDistributed(L.Conv2D(5, 3)), {"shape": MOVIE}),
    ("TimeDistributed(LSTM)", lambda: L.TimeDistributed(L.LSTM(4)), {"shape": (2, *STEPS)}),
    ("TimeDistributed(model)", time_distributed_model, {"shape": MOVIE}),
    own=PRUNED,
)
family(
    "Attention",
    SEQUENCE,
    ("MultiHeadAttention", attend(L.MultiHeadAttention, 4, 3), makes),
    ("MultiHeadAttention, value width", attend(L.MultiHeadAttention, 2, 3, value_dim=5), makes),
    ("GroupQueryAttention", attend(L.GroupQueryAttention, 3, 4, 2), makes),
    ("Attention", of_list(L.Attention, use_scale=True)),
    ("Attention concat", of_list(L.Attention, score_mode="concat")),
    ("AdditiveAttention", of_list(L.AdditiveAttention)),
    ("Dot over channels", of_list(L.Dot, axes=-1)),
    ("Dot, normalized", of_list(L.Dot, axes=2, normalize=True)),
    ("Dot over positions", of_list(L.Dot, axes=1), {"through": KEPT}),
    (
        "ops.matmul of channels",
        with_projection(lambda x, y: ops.matmul(x, ops.transpose(y, (0, 2, 1)))),
    ),
    ("ops.einsum of positions", with_projection(lambda x, y: ops.einsum("btc,bsc->bts", x, y))),
)
family(
    "Normalization",
    MAP,
    ("BatchNormalization", fresh(L.BatchNormalization)),
    ("GroupNormalization", fresh(L.GroupNormalization, 4)),
    ("GroupNormalization, one channel each", fresh(L.GroupNormalization, -1)),
    ("LayerNormalization", fresh(L.LayerNormalization), {"through": KEPT}),
    ("LayerNormalization over positions", fresh(L.LayerNormalization, axis=1)),
    ("RMSNormalization", fresh(L.RMSNormalization), {"through": KEPT}),
    ("UnitNormalization", fresh(L.UnitNormalization)),
    ("ops.normalize", bare(lambda x: ops.normalize(x))),
    ("SpectralNormalization(Conv2D)", lambda: L.SpectralNormalization(L.Conv2D(5, 3)), makes),
    ("SpectralNormalization(Dense)", lambda: L.SpectralNormalization(L.Dense(5)), makes),
    (
        "Normalization with constants",
        fresh(L.Normalization, mean=0.5, variance=2.0),
        {"through": KEPT},
    ),
)
family(
    "Activations and regularization",
    MAP,
    ("Activation relu", fresh(L.Activation, "relu")),
    ("Activation gelu", fresh(L.Activation, "gelu")),
    ("Activation softmax", fresh(L.Activation, "softmax"), {"through": KEPT}),
    ("Softmax over positions", fresh(L.Softmax, axis=1)),
    ("ReLU", fresh(L.ReLU, max_value=6.0)),
    ("LeakyReLU", fresh(L.LeakyReLU)),
    ("ELU", fresh(L.ELU)),
    ("PReLU", fresh(L.PReLU)),
    ("PReLU shared over positions", fresh(L.PReLU, shared_axes=[1, 2])),
    ("Dropout", fresh(L.Dropout, 0.5)),
    ("SpatialDropout2D", fresh(L.SpatialDropout2D, 0.5)),
    ("GaussianNoise", fresh(L.GaussianNoise, 0.1)),
    ("GaussianDropout", fresh(L.GaussianDropout, 0.1)),
    ("AlphaDropout", fresh(L.AlphaDropout, 0.1)),
    ("ActivityRegularization", fresh(L.ActivityRegularization, 0.1)),
    ("Identity", fresh(L.Identity)),
    ("Masking", fresh(L.Masking), {"shape": SEQUENCE}),
    ("Rescaling", fresh(L.Rescaling, 0.5, offset=1.0)),
    ("RandomFlip", fresh(L.RandomFlip)),
    ("RandomContrast", fresh(L.RandomContrast, 0.2), {"through": KEPT}),
)
family(
    "Pooling and space",
    MAP,
    ("MaxPooling1D", fresh(L.MaxPooling1D), {"shape": SEQUENCE}),
    ("MaxPooling2D", fresh(L.MaxPooling2D, padding="same")),
    (
        "MaxPooling3D",
        fresh(L.MaxPooling3D),
        {"shape": VOLUME, "without": ("mixed precision",)},
    ),
    ("AveragePooling1D", fresh(L.AveragePooling1D, 2), {"shape": SEQUENCE}),
    ("AveragePooling2D", fresh(L.AveragePooling2D, 3, strides=1)),
    ("GlobalAveragePooling1D", fresh(L.GlobalAveragePooling1D), {"shape": SEQUENCE}),
    ("GlobalAveragePooling2D", fresh(L.GlobalAveragePooling2D, keepdims=True)),
    ("GlobalMaxPooling2D", fresh(L.GlobalMaxPooling2D)),
    ("GlobalMaxPooling3D", fresh(L.GlobalMaxPooling3D), {"shape": VOLUME}),
    *(
        [("AdaptiveAveragePooling2D", fresh(L.AdaptiveAveragePooling2D, 2))]
        if HAS_ADAPTIVE_POOLING
        else []
    ),
    ("ZeroPadding1D", fresh(L.ZeroPadding1D), {"shape": SEQUENCE}),
    ("ZeroPadding2D", fresh(L.ZeroPadding2D)),
    ("Cropping2D", fresh(L.Cropping2D)),
    ("UpSampling1D", fresh(L.UpSampling1D), {"shape": SEQUENCE}),
    ("UpSampling2D", fresh(L.UpSampling2D, interpolation="bilinear")),
    ("Resizing", fresh(L.Resizing, 4, 5)),
    ("CenterCrop", fresh(L.CenterCrop, 4, 4)),
    ("ops.max_pool", bare(lambda x: ops.max_pool(x, 2))),
    ("ops.image.resize", bare(lambda x: ops.image.resize(x, (9, 5)))),
)
family(
    "Merging",
    MAP,
    ("Add", of_list(L.Add)),
    ("Subtract", of_list(L.Subtract)),
    ("Multiply", of_list(L.Multiply)),
    ("Average", of_list(L.Average)),
    ("Maximum", of_list(L.Maximum)),
    ("Minimum", of_list(L.Minimum)),
    ("Concatenate", of_list(L.Concatenate)),
    ("Concatenate over positions", of_list(L.Concatenate, axis=1)),
    ("squeeze and excitation", squeeze_and_excitation, makes),
    ("x * 2 + y", with_projection(lambda x, y: x * 2 + y)),
    ("ops.where", with_projection(lambda x, y: ops.where(x > 0, x, y))),
    ("ops.stack", with_projection(lambda x, y: ops.stack([x, y], axis=1))),
    ("a constant for every channel", bare(constant), {"through": KEPT}),
)
family(
    "Moving data",
    MAP,
    ("Flatten", fresh(L.Flatten)),
    ("Reshape to positions", fresh(L.Reshape, (36, 8))),
    ("Reshape to groups of channels", fresh(L.Reshape, (6, 6, 2, 4))),
    ("Permute", fresh(L.Permute, (3, 1, 2))),
    ("RepeatVector", fresh(L.RepeatVector, 3), {"shape": VECTOR}),
    ("ops.transpose", bare(lambda x: ops.transpose(x, (0, 3, 1, 2)))),
    ("ops.moveaxis", bare(lambda x: ops.moveaxis(x, 3, 1))),
    ("ops.expand_dims and squeeze", bare(lambda x: ops.squeeze(ops.expand_dims(x, 1), 1))),
    ("channel shuffle", bare(shuffle)),
    ("ops.split", bare(lambda x: ops.concatenate(ops.split(x, 2, axis=-1)[::-1], axis=-1))),
    ("slice of channels", bare(lambda x: ops.concatenate([x[..., 2:5], x[..., 4:]], axis=-1))),
    ("slice of positions", bare(lambda x: x[:, 1:4, ::2])),
    ("one channel", bare(lambda x: x[..., 3:4] * x)),
    ("ops.take", bare(lambda x: ops.take(x, [5, 1, 3], axis=-1))),
    ("ops.flip", bare(lambda x: ops.flip(x, axis=-1))),
    ("ops.pad", bare(lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]]))),
    ("ops.repeat of positions", bare(lambda x: ops.repeat(x, 2, axis=1))),
    ("ops.roll of positions", bare(lambda x: ops.roll(x, (1, -2), axis=(1, 2)))),
    ("ops.roll of channels", bare(lambda x: ops.roll(x, 1, axis=-1)), {"through": KEPT}),
)
family(
    "Reductions",
    MAP,
    ("ops.mean over positions", bare(lambda x: ops.mean(x, axis=(1, 2)))),
    ("ops.max over positions", bare(lambda x: ops.max(x, axis=1, keepdims=True))),
    ("ops.logsumexp over positions", bare(lambda x: ops.logsumexp(x, axis=(1, 2)))),
    ("ops.norm over positions", bare(lambda x: ops.norm(x, axis=1))),
    ("ops.norm over channels", bare(lambda x: ops.norm(x, axis=-1))),
    ("ops.sum over channels", bare(lambda x: ops.sum(x, axis=-1))),
    ("ops.mean over channels", bare(lambda x: ops.mean(x, axis=-1)), {"through": KEPT}),
    ("ops.max over channels", bare(lambda x: ops.max(x, axis=-1)), {"through": KEPT}),
    ("Lambda", fresh(L.Lambda, lambda x: x * 2), {"through": KEPT}),
)
