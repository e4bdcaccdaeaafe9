"""Pooling, and reductions over axes."""

from __future__ import annotations

from keras import layers

from keras_dynhp.memory.kernels.registry import Step, layer_rule, operation_rule, size_of
from keras_dynhp.memory.tape import Size


@layer_rule(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)
@operation_rule("MaxPool")
def _max_pooling(step: Step, layer, call, inputs):
    x, tape, size = inputs[0], step.tape, size_of(call.output)
    y = tape.op("MaxPool", [x], size)
    kept = [x, y]
    if step.machine.onednn:
        # oneDNN remembers in one byte which of a window's values was the largest.
        kept.append(tape.op("MaxPoolWorkspace", [x], Size(0, call.output.size)))
    # TensorFlow's own kernel finds it again: a copy of the result and an int64 for each value.
    again = Size() if step.machine.onednn or step.machine.gpu else Size(0, 8 * call.output.size)

    def backward(dy):
        scratch = None if again == Size() else lambda batch: again.at(batch) + size.at(batch)
        tape.send(x, tape.op("MaxPoolGrad", [dy, *kept], x.size, scratch=scratch))

    tape.on_gradient(y, backward)
    return [y]


@layer_rule(
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
@operation_rule("Mean", "Sum", "AveragePool")
def _average_pooling(step: Step, layer, call, inputs):
    x, tape = inputs[0], step.tape
    y = tape.op("AvgPool", [x], size_of(call.output))
    tape.on_gradient(y, lambda dy: tape.send(x, tape.op("AvgPoolGrad", [dy], x.size)))
    return [y]


@layer_rule(
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
@operation_rule("Max", "Min", "Amax", "Amin")
def _global_max_pooling(step: Step, layer, call, inputs):
    """A maximum over axes: its gradient compares every value with the largest."""
    x, tape = inputs[0], step.tape
    y = tape.op("Max", [x], size_of(call.output))

    def backward(dy):
        equal = tape.op("Equal", [x, y], x.size)
        tape.send(x, tape.op("MaxGrad", [dy, equal], x.size))

    tape.on_gradient(y, backward)
    return [y]
