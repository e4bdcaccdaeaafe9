"""Recurrent layers, and layers that run another one at each step."""

from __future__ import annotations

import math

import keras
from keras import layers

from keras_dynhp.memory.kernels.registry import Step, layer_rule, size_of, unknown
from keras_dynhp.memory.tape import Size, Tensor, itemsize

_PIECES = 8


@layer_rule(layers.SimpleRNN, layers.LSTM, layers.GRU, layers.RNN)
def _recurrent(step: Step, layer, call, inputs):
    return [_steps(step, layer, call, inputs, size_of(symbol)) for symbol in call.outputs]


def _steps(step: Step, layer, call, inputs: list[Tensor], size: Size) -> Tensor:
    """Every step keeps each gate before and after its activation, and both states.

    Measured for LSTM, GRU and SimpleRNN, TensorFlow keeps 8 to 9, 8 and 3 values for each unit.
    """
    tape, x = step.tape, inputs[0]
    weights = [tape.weight(variable, layer.compute_dtype) for variable in layer.trainable_weights]
    gates = sum(w.shape[-1] for w in layer.cell.trainable_weights if len(w.shape) > 1) // 2
    times = call.input.shape[1]
    each = times * (2 * gates + 2 * _units(layer.cell)) * itemsize(layer.compute_dtype)
    copied = tape.op("Transpose", [x], x.size)
    kept = pieces(step, [copied, *weights], Size(0, each))
    y = tape.op("Transpose", kept, size)

    def backward(dy):
        ordered = tape.op("Transpose", [dy], dy.size)
        for tensor in (*weights, x):
            if tensor.trains:
                reads = [ordered, *kept, copied]
                tape.send(tensor, tape.op("WhileGrad", reads, tensor.size, scratch=tensor.size.at))

    tape.on_gradient(y, backward)
    return y


def pieces(step: Step, reads: list[Tensor], size: Size) -> list[Tensor]:
    """Many small tensors, a few standing for all."""
    return [step.tape.op("While", reads, size.times(1 / _PIECES)) for _ in range(_PIECES)]


def _units(cell) -> int:
    cells = getattr(cell, "cells", [cell])  # one above the other
    return sum(max(keras.tree.flatten(one.state_size)) for one in cells)


@layer_rule(layers.Bidirectional)
def _bidirectional(step: Step, layer, call, inputs):
    tape = step.tape
    half = Size(0, sum(size_of(symbol).each for symbol in call.outputs) // 2)
    both = [
        _steps(step, inner, call, inputs, half)
        for inner in (layer.forward_layer, layer.backward_layer)
    ]
    made = [tape.op("ConcatV2", both, size_of(symbol)) for symbol in call.outputs]

    def backward(*gradients):
        arrived = [gradient for gradient in gradients if gradient is not None]
        for one in both:
            tape.send(one, tape.op("Slice", arrived, one.size))

    tape.on_gradient(made, backward)
    return made


@layer_rule(layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
def _conv_lstm(step: Step, layer, call, inputs):
    """Ten values for each filter, output pixel and step."""
    last = layer.compute_output_shape(call.input.shape)
    frame = last[2:] if layer.return_sequences else last[1:]
    each = 10 * call.input.shape[1] * math.prod(frame) * itemsize(layer.compute_dtype)
    return unknown(step, layer, call, inputs, kept=each)


@layer_rule(layers.TimeDistributed)
def _time_distributed(step: Step, layer, call, inputs):
    """Keras slices out each step; the gradient of every slice is as large as the whole."""
    x, tape = inputs[0], step.tape
    y = unknown(step, layer, call, inputs)[0]
    marked = tape.op("Identity", [y], y.size, in_place=True)
    slices = x.size.times(call.input.shape[1])

    def backward(dy):
        apart = pieces(step, [dy], slices)
        tape.send(y, tape.op("Identity", [dy, *apart], dy.size, in_place=True))

    tape.on_gradient(marked, backward)
    return [marked]
