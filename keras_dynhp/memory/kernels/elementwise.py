"""Activations, and operations that work value by value on one or several tensors."""

from __future__ import annotations

from keras import layers

from keras_dynhp.memory.kernels.registry import Step, layer_rule, operation_rule, size_of
from keras_dynhp.memory.tape import Size, Tensor

# Of an activation: whether its gradient reads what went in rather than the result, how many tensors
# of the same size it keeps besides, and how many copies its kernels make for a moment.
_ACTIVATIONS = {
    "relu": (False, 0, 0),
    "relu6": (False, 0, 0),
    "elu": (False, 0, 0),
    "selu": (False, 0, 0),
    "sigmoid": (False, 0, 0),
    "hard_sigmoid": (False, 0, 0),
    "tanh": (False, 0, 0),
    "exp": (False, 0, 0),
    "exponential": (False, 0, 0),
    "sqrt": (False, 0, 0),
    "softmax": (False, 0, 1),
    "log_softmax": (False, 0, 1),
    "leaky_relu": (True, 0, 0),
    "softsign": (True, 0, 0),
    "log": (True, 0, 0),
    "abs": (True, 0, 1),
    "square": (True, 0, 1),
    "softplus": (True, 0, 1),
    "silu": (True, 0, 2),
    "swish": (True, 0, 2),
    "hard_silu": (True, 2, 0),
    "hard_swish": (True, 2, 0),
}
_OTHER = (True, 3, 0)
_FREE = frozenset({"linear", "stopgradient", "identity"})


def fused(step: Step, function, tensor: Tensor) -> Tensor:
    """The activation that a layer applies to what it just made."""
    return activate(step, _name(function), tensor)


def activate(step: Step, name: str, x: Tensor) -> Tensor:
    """An activation by its name."""
    tape = step.tape
    if name in _FREE:
        return x
    reads_input, more, copies = _ACTIVATIONS.get(name, _OTHER)
    scratch = (lambda batch: copies * x.size.at(batch)) if copies else None
    inner = [tape.op(name, [x], x.size) for _ in range(more)]
    y = tape.op(name, [x, *inner], x.size, in_place=True, scratch=scratch)

    def backward(dy):
        needed = [x, *inner] if reads_input else [y]
        for tensor in inner:
            dy = tape.op(f"{name}Grad", [dy, tensor], x.size, in_place=True)
        reads = [dy, *needed]
        tape.send(x, tape.op(f"{name}Grad", reads, x.size, in_place=True, scratch=scratch))

    tape.on_gradient(y, backward)
    return y


def _name(function) -> str:
    if function is None:
        return "linear"
    return getattr(function, "__name__", type(function).__name__).lower()


@layer_rule(layers.Activation)
def _activation(step, layer, call, inputs):
    return [activate(step, _name(layer.activation), inputs[0])]


_LAYERS = {
    layers.ReLU: "relu",
    layers.ELU: "elu",
    layers.LeakyReLU: "leaky_relu",
    layers.PReLU: "prelu",
    layers.Softmax: "softmax",
}


@layer_rule(*(kind for kind in _LAYERS if kind is not layers.PReLU))
def _activation_layer(step, layer, call, inputs):
    name = next(_LAYERS[kind] for kind in type(layer).__mro__ if kind in _LAYERS)
    if name == "relu" and (layer.negative_slope or layer.threshold):
        name = "leaky_relu"
    return [activate(step, name, inputs[0])]


_OPERATIONS = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Elu": "elu",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Exp": "exp",
    "Sqrt": "sqrt",
    "LeakyRelu": "leaky_relu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Silu": "silu",
    "Square": "square",
    "Log": "log",
    "Absolute": "abs",
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "StopGradient": "stopgradient",
    "Identity": "identity",
}


@operation_rule(*_OPERATIONS)
def _activation_operation(step, operation, call, inputs):
    return [activate(step, _OPERATIONS[type(operation).__name__], inputs[0])]


@layer_rule(layers.Add, layers.Subtract, layers.Average)
@operation_rule("Add", "Subtract")
def _add(step, operation, call, inputs):
    tape, size = step.tape, size_of(call.output)
    y = tape.op("Add", inputs, size, in_place=True)

    def backward(dy):
        for x in inputs:
            _send_summed(tape, x, dy)

    tape.on_gradient(y, backward)
    return [y]


def _send_summed(tape, x: Tensor, dy: Tensor) -> None:
    """The gradient of what was broadcast is summed; that of what was not passes as it is."""
    if x.trains:
        tape.send(x, dy if x.size == dy.size else tape.op("Sum", [dy], x.size))


@layer_rule(layers.Multiply, layers.Maximum, layers.Minimum)
@operation_rule("Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power", "Where")
def _multiply(step, operation, call, inputs):
    tape, size = step.tape, size_of(call.output)
    y = tape.op("Mul", inputs, size, in_place=True)

    def backward(dy):
        for x in inputs:
            if x.trains:
                _send_summed(tape, x, tape.op("MulGrad", [dy, *inputs], size, in_place=True))

    tape.on_gradient(y, backward)
    return [y]


@layer_rule(
    layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D
)
def _dropout(step, layer, call, inputs):
    x, tape = inputs[0], step.tape
    if not layer.rate:
        return [x]
    random = tape.op("RandomUniform", [], x.size)
    mask = tape.op("GreaterEqual", [random], Size(0, call.output.size))
    scaled = tape.op("Mul", [x], x.size)
    y = tape.op("SelectV2", [scaled, mask], x.size, scratch=x.size.at)

    def backward(dy):
        chosen = tape.op("SelectV2", [dy, mask], x.size)
        tape.send(x, tape.op("Mul", [chosen], x.size, in_place=True))

    tape.on_gradient(y, backward)
    return [y]


@layer_rule(layers.GaussianNoise)
def _added_noise(step, layer, call, inputs):
    x, tape = inputs[0], step.tape
    y = tape.op("Add", [x, tape.op("RandomNormal", [], x.size)], x.size)
    tape.on_gradient(y, lambda dy: tape.send(x, dy))
    return [y]


@layer_rule(layers.GaussianDropout, layers.AlphaDropout)
def _multiplied_noise(step, layer, call, inputs):
    x, tape = inputs[0], step.tape
    noise = tape.op("RandomNormal", [], x.size, scratch=x.size.at)
    y = tape.op("Mul", [x, noise], x.size, scratch=x.size.at)

    def backward(dy):
        tape.send(x, tape.op("Mul", [dy, noise], x.size, in_place=True))

    tape.on_gradient(y, backward)
    return [y]


@layer_rule(layers.Rescaling, layers.Normalization)
@operation_rule("Negative")
def _rescaling(step, layer, call, inputs):
    x, tape = inputs[0], step.tape
    y = tape.op("Mul", [x], size_of(call.output), in_place=True)
    tape.on_gradient(y, lambda dy: tape.send(x, tape.op("Mul", [dy], x.size, in_place=True)))
    return [y]


@layer_rule(layers.ActivityRegularization)
def _same(step, layer, call, inputs):
    return inputs
