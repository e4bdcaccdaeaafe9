"""Convolutions and their gradients."""

from __future__ import annotations

import math

from keras import layers

from keras_dynhp.keras_state.strided import picks_first
from keras_dynhp.memory.kernels.columns import Geometry
from keras_dynhp.memory.kernels.dense import add_bias
from keras_dynhp.memory.kernels.elementwise import fused
from keras_dynhp.memory.kernels.registry import Step, layer_rule, size_of
from keras_dynhp.memory.tape import Size, itemsize


@layer_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution(step: Step, layer, call, inputs):
    x, tape = inputs[0], step.tape
    w = tape.weight(layer.kernel, layer.compute_dtype)
    spread = max(layer.dilation_rate) > 1
    x = copy(step, x) if spread else x
    x = _picked(step, x, layer, call) if picks_first(layer) else x
    y = convolve(step, x, w, _geometry(layer, call), size_of(call.output))
    y = copy(step, y) if spread else y
    add_bias(step, layer, y)
    return [fused(step, layer.activation, y)]


def copy(step: Step, x):
    """TensorFlow cuts the space of a dilated convolution into batches, and puts it together."""
    tape = step.tape
    y = tape.op("SpaceToBatch", [x], x.size)
    tape.on_gradient(y, lambda dy: tape.send(x, tape.op("BatchToSpace", [dy], x.size)))
    return y


def _picked(step: Step, x, layer, call):
    """What a convolution of size 1 reads of its input, where it is trained in that way."""
    tape, channels = step.tape, layer.kernel.shape[-2] * layer.groups
    positions = call.output.size // layer.filters
    size = Size(0, positions * channels * itemsize(layer.compute_dtype))
    y = tape.op("StridedSlice", [x], size)
    tape.on_gradient(y, lambda dy: tape.send(x, tape.op("StridedSliceGrad", [dy], x.size)))
    return y


def _geometry(layer, call) -> Geometry:
    kernel = tuple(layer.kernel.shape)
    return Geometry(
        positions=call.output.size // kernel[-1],
        taps=math.prod(kernel[:-1]),
        out=kernel[-1],
        inputs=call.input.size,
        width=itemsize(layer.compute_dtype),
        volume=len(kernel) == 5,
    )


def convolve(step: Step, x, w, geometry: Geometry, size: Size):
    """A convolution and its two gradients."""
    tape, g = step.tape, geometry
    y = tape.op("Conv", [x, w], size, work=g.work)

    def backward(dy):
        if x.trains:
            tape.send(x, input_gradient(step, dy, w, g, x.size))
        if w.trains:
            tape.send(w, filter_gradient(step, x, dy, g, w.size))

    tape.on_gradient(y, backward)
    return y


def input_gradient(step: Step, dy, w, g: Geometry, size: Size):
    """The kernel that gives the gradient of a convolution's input."""
    scratch = _on_cpu(step, lambda batch: g.for_input(step.machine, batch))
    return step.tape.op("ConvBackpropInput", [dy, w], size, scratch=scratch, work=g.work)


def filter_gradient(step: Step, x, dy, g: Geometry, size: Size):
    """The kernel that gives the gradient of a convolution's filter."""
    scratch = _on_cpu(step, lambda batch: g.for_filter(step.machine, batch))
    return step.tape.op("ConvBackpropFilter", [x, dy], size, scratch=scratch, work=g.work)


def _on_cpu(step: Step, scratch):
    """oneDNN and cuDNN lay out no columns in TensorFlow's memory."""
    return None if step.machine.gpu or step.machine.onednn else scratch


@layer_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise(step: Step, layer, call, inputs):
    w = step.tape.weight(layer.kernel, layer.compute_dtype)
    y = depthwise(step, inputs[0], w, size_of(call.output), math.prod(layer.kernel_size))
    add_bias(step, layer, y)
    return [fused(step, layer.activation, y)]


def depthwise(step: Step, x, w, size: Size, taps: int):
    """A convolution of each channel by itself, and its two gradients."""
    tape, work = step.tape, Size(0, size.each // 4 * 2 * taps)
    y = tape.op("DepthwiseConv", [x, w], size, work=work)

    def backward(dy):
        if x.trains:
            tape.send(x, tape.op("DepthwiseBackpropInput", [dy, w], x.size, work=work))
        if w.trains:
            # TensorFlow's own kernel makes one filter gradient for each sample, and adds them.
            scratch = _on_cpu(step, lambda batch: batch * w.size.fixed)
            reads = [x, dy]
            grad = tape.op("DepthwiseBackpropFilter", reads, w.size, scratch=scratch, work=work)
            tape.send(w, grad)

    tape.on_gradient(y, backward)
    return y


@layer_rule(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable(step: Step, layer, call, inputs):
    width = itemsize(layer.compute_dtype)
    first = step.tape.weight(layer.depthwise_kernel, layer.compute_dtype)
    second = step.tape.weight(layer.pointwise_kernel, layer.compute_dtype)
    channels, out = layer.pointwise_kernel.shape[-2:]
    positions = call.output.size // out
    between = Size(0, positions * channels * width)
    x = depthwise(step, inputs[0], first, between, math.prod(layer.kernel_size))
    g = Geometry(positions, channels, out, positions * channels, width)
    y = convolve(step, x, second, g, size_of(call.output))
    add_bias(step, layer, y)
    return [fused(step, layer.activation, y)]


@layer_rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _transposed(step: Step, layer, call, inputs):
    """Forward, the kernel of an input gradient; backward, those of a convolution."""
    x, tape = inputs[0], step.tape
    w = tape.weight(layer.kernel, layer.compute_dtype)
    kernel = tuple(layer.kernel.shape)
    g = Geometry(
        positions=call.input.size // kernel[-1],
        taps=math.prod(kernel[:-1]),
        out=kernel[-1],
        inputs=call.output.size,
        width=itemsize(layer.compute_dtype),
        volume=len(kernel) == 5,
    )
    y = input_gradient(step, x, w, g, size_of(call.output))

    def backward(dy):
        if x.trains:
            tape.send(x, tape.op("Conv", [dy, w], x.size, work=g.work))
        if w.trains:
            tape.send(w, filter_gradient(step, dy, x, g, w.size))

    tape.on_gradient(y, backward)
    add_bias(step, layer, y)
    return [fused(step, layer.activation, y)]
