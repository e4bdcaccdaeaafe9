"""Recurrent layers: units are read again by the layer's own recurrent weights."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.graph import labels as lb
from keras_dynhp.graph.call import is_symbolic
from keras_dynhp.graph.records import IN, INSIDE, OUT
from keras_dynhp.graph.registry import rule_for
from keras_dynhp.graph.rules.activation import mixes_channels
from keras_dynhp.graph.rules.convolution import keep_from_columns

layers = keras.layers
CELLS = (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell)


def label_cell(call, cell, features, units):
    """A cell's variables; every gate holds the units once, side by side."""
    gates = np.tile(units, cell.recurrent_kernel.shape[-1] // len(units))
    spatial = [None] * (len(cell.kernel.shape) - 2)
    call.label(cell.kernel, *spatial, (features, IN), (gates, OUT))
    call.label(cell.recurrent_kernel, *spatial, (units, INSIDE), (gates, OUT))
    if cell.bias is not None:
        # GRU with reset_after has two rows of biases.
        rows = [None] * (len(cell.bias.shape) - 1)
        call.label(cell.bias, *rows, (gates, OUT))
    for name in ("activation", "recurrent_activation"):
        why = mixes_channels(getattr(cell, name, None))
        if why:
            call.pin(units, why)


def given_states(call):
    """The labels of each initial state that a call was given; masks of steps are no states."""
    if not (call.args or call.kwargs):  # inside another layer, which sorted its inputs
        return call.inputs[1:]
    states = keras.tree.flatten(call.arguments().get("initial_state"))
    return [_state_labels(call, state) for state in states if state is not None]


def _state_labels(call, state):
    if is_symbolic(state):
        return call.inputs[call.index_of(state)]
    rank = len(np.shape(state))
    return lb.blank(rank, call.fixed(f"a constant is the initial state of {call.path}"))


def join_states(call, states, axis=-1):
    """Initial states are the units of the step before; a stateful layer keeps them in variables."""
    for labels, units in zip(given_states(call), states):
        call.couple(lb.axis_vector(labels, axis, len(units)), units)
    kept = keras.tree.flatten(getattr(call.layer, "states", None) or [])
    for variable, units in zip(kept, states):
        rank = len(variable.shape)
        call.label(variable, *[units if a == axis % rank else None for a in range(rank)])


def states_of(cell, units):
    """The units of each state of a cell."""
    return [units, units] if isinstance(cell, layers.LSTMCell) else [units]


@rule_for(layers.SimpleRNN, layers.GRU, layers.LSTM)
def recurrent(call):
    """Reads features, makes units."""
    cell = call.layer.cell
    features = call.read(0)
    units = call.produce(cell.units)
    label_cell(call, cell, features, units)
    join_states(call, states_of(cell, units))
    call.resize("units", units)
    return [call.along(units, -1, output) for output in range(len(call.output_shapes))]


@rule_for(layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
def convolutional(call):
    """As LSTM, with filters for units; time lies on axis 1, so channels-first means axis 2."""
    layer = call.layer
    last = layer.cell.data_format == "channels_last"
    features = call.read(0, -1 if last else 2)
    filters = call.produce(layer.filters)
    label_cell(call, layer.cell, features, filters)
    join_states(call, [filters, filters], -1 if last else 1)
    if not last and layer.cell.bias is not None:
        keep_from_columns(call, np.tile(filters, 4), call.output_shapes[0][-1])
    call.resize("filters", filters)
    outputs = []
    for number, shape in enumerate(call.output_shapes):
        sequence = len(shape) == len(call.input_shapes[0])
        outputs.append(call.along(filters, -1 if last else 2 if sequence else 1, number))
    return outputs


@rule_for(layers.RNN)
def cell_by_cell(call):
    """A cell, or several stacked, each of which reads the units of the one below."""
    cell = call.layer.cell
    stacked = type(cell) is layers.StackedRNNCells
    cells = cell.cells if stacked else [cell]
    other = [type(one).__name__ for one in cells if type(one) not in CELLS]
    if other:
        return call.barrier(f"runs a cell of its own kind ({other[0]})")
    outer = call.inside(cell, "cell") if stacked else call
    states, features = [], call.read(0)
    for one in cells:
        inner = outer.inside(one, "cells" if stacked else "cell", hidden=bool(states))
        units = inner.produce(one.units)
        label_cell(inner, one, features, units)
        inner.resize("units", units)
        states += states_of(one, units)
        features = units
    join_states(call, states)
    outputs = [features, *states]
    return [call.along(outputs[n], -1, n) for n in range(len(call.output_shapes))]


@rule_for(layers.Bidirectional)
def bidirectional(call):
    """Two layers over the same sequence, one of them backwards."""
    layer = call.layer
    if type(layer.forward_layer) not in (layers.SimpleRNN, layers.GRU, layers.LSTM):
        kind = type(layer.forward_layer).__name__
        return call.barrier(f"runs a layer of another kind than SimpleRNN, GRU, LSTM ({kind})")
    merge = layer.merge_mode
    states = given_states(call)
    half = len(states) // 2
    results = []
    for key, inner, mine in zip(
        ("layer", "backward_layer"),
        (layer.forward_layer, layer.backward_layer),
        (states[:half], states[half:]),
    ):
        one = call.inside(
            inner,
            key,
            inputs=[call.inputs[0], *mine],
            output_shapes=_shapes_of_one(inner),
            args=(),
            kwargs={},
        )
        results.append(one.run())
    (forward, *states), (backward, *more) = results
    # Keras works out the shape of both directions from the first, so they stay equally wide.
    call.couple(forward, backward)
    if merge is None:
        return [forward, backward, *states, *more]
    if merge == "concat":
        width = layer.forward_layer.units
        both = [np.broadcast_to(labels.ravel(), width) for labels in (forward, backward)]
        return [call.along(np.concatenate(both)), *states, *more]
    return [forward, *states, *more]


def _shapes_of_one(inner):
    count = 1 + (len(inner.cell.state_size) if isinstance(inner, layers.LSTM) else 1) * (
        inner.return_state
    )
    sequence = (None, None) if inner.return_sequences else (None,)
    return [(*sequence, inner.units), *[(None, inner.units)] * (count - 1)]
