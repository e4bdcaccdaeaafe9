"""Layers that only move values."""

from __future__ import annotations

from keras import layers

from keras_dynhp.memory.kernels.registry import Step, layer_rule, operation_rule, size_of


@layer_rule(layers.Flatten, layers.Reshape, layers.Identity, layers.Masking)
@operation_rule("Reshape", "Squeeze", "ExpandDims", "Ravel")
def _alias(step: Step, operation, call, inputs):
    """The same bytes under another shape."""
    return [inputs[0]]


@layer_rule(
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.RepeatVector,
    layers.Permute,
)
@operation_rule("Transpose", "Pad", "Repeat", "Tile", "BroadcastTo", "Flip", "Roll", "GetItem")
def _copy(step: Step, operation, call, inputs):
    x, tape = inputs[0], step.tape
    y = tape.op("Copy", [x], size_of(call.output))
    tape.on_gradient(y, lambda dy: tape.send(x, tape.op("CopyGrad", [dy], x.size)))
    return [y]


@layer_rule(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
def _upsampling(step: Step, layer, call, inputs):
    """One axis after the other."""
    x, tape, size = inputs[0], step.tape, size_of(call.output)
    half = size.times(0.5).at
    y = tape.op("Resize", [x], size, scratch=half)
    tape.on_gradient(y, lambda dy: tape.send(x, tape.op("ResizeGrad", [dy], x.size, scratch=half)))
    return [y]


@layer_rule(layers.Concatenate)
@operation_rule("Concatenate", "Stack")
def _concatenate(step: Step, operation, call, inputs):
    tape = step.tape
    y = tape.op("ConcatV2", inputs, size_of(call.output))

    def backward(dy):
        for x in inputs:
            if x.trains:
                tape.send(x, tape.op("Slice", [dy], x.size))

    tape.on_gradient(y, backward)
    return [y]
