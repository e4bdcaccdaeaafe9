"""Convolutions: what they keep, and the image columns that their gradients lay out."""

from __future__ import annotations

import math

from keras import layers

from keras_dynhp.memory.kernels.dense import add_bias
from keras_dynhp.memory.kernels.elementwise import fused
from keras_dynhp.memory.kernels.registry import Step, layer_rule, size_of
from keras_dynhp.memory.tape import Size, itemsize

# Constants of TensorFlow's conv_grad_filter_ops.cc and conv_grad_input_ops.cc.
_LAST_LEVEL_CACHE = 30 << 20
_SECOND_LEVEL_CACHE = 256 << 10


def filter_columns(positions: int, filter_size: int, out: int, width: int) -> int:
    """Bytes of the image columns that the gradient of a filter lays out.

    As many images as fill 30 MB with their columns, their output and the filter go into one pass,
    whatever the batch: a small convolution needs its 15 to 25 MB even for a batch of one.

    Args:
        positions: output pixels of one image.
        filter_size: values under the filter (height x width x input channels).
        out: output channels.
        width: bytes of a value.
    """
    unit = positions * filter_size + positions * out + filter_size * out
    images = -(-(_LAST_LEVEL_CACHE // width) // unit)
    return images * positions * filter_size * width


def input_columns(
    positions: int, filter_size: int, out: int, width: int, batch: int, threads: int
) -> int:
    """Bytes of the image columns that the gradient of an input lays out.

    One image at a time where one is enough work for all threads, else as many as fill 30 MB.
    """
    unit = positions * filter_size + positions * out + filter_size * out
    if batch == 1 or unit // threads >= _SECOND_LEVEL_CACHE // width:
        return positions * filter_size * width
    return filter_columns(positions, filter_size, out, width)


@layer_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution(step: Step, layer, call, inputs):
    x, tape = inputs[0], step.tape
    w = tape.weight(layer.kernel, layer.compute_dtype)
    y = convolve(step, x, w, _geometry(layer, call), size_of(call.output))
    add_bias(step, layer, y)
    return [fused(step, layer.activation, y)]


class Geometry:
    """Counts of one convolution: output pixels, values under the filter, output channels."""

    def __init__(self, positions: int, filter_size: int, out: int, width: int):
        self.positions = positions
        self.filter_size = filter_size
        self.out = out
        self.width = width

    @property
    def work(self) -> Size:
        return Size(0, 2 * self.positions * self.filter_size * self.out)


def _geometry(layer, call) -> Geometry:
    kernel = tuple(layer.kernel.shape)
    out = kernel[-1]
    return Geometry(
        call.output.size // out, math.prod(kernel[:-1]), out, itemsize(layer.compute_dtype)
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
    threads = step.machine.threads

    def scratch(batch):
        return input_columns(g.positions, g.filter_size, g.out, g.width, batch, threads)

    return step.tape.op(
        "ConvBackpropInput", [dy, w], size, scratch=_on_cpu(step, scratch), work=g.work
    )


def filter_gradient(step: Step, x, dy, g: Geometry, size: Size):
    """The kernel that gives the gradient of a convolution's filter."""

    def scratch(batch):
        return filter_columns(g.positions, g.filter_size, g.out, g.width)

    return step.tape.op(
        "ConvBackpropFilter", [x, dy], size, scratch=_on_cpu(step, scratch), work=g.work
    )


def _on_cpu(step: Step, scratch):
    return None if step.machine.gpu or step.machine.onednn else scratch
