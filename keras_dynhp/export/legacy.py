"""A Keras 3 model in tf_keras, which tensorflow-model-optimization works on."""

from __future__ import annotations

import inspect

import keras

from keras_dynhp.keras_state import graph


def operations(model: keras.Model) -> list:
    """What a model calls, nested models opened up; a shared layer once for every call."""
    found = []
    for node in graph.nodes_in_order(graph.functional_of(model)):
        operation = node.operation
        found.extend(operations(operation) if isinstance(operation, keras.Model) else [operation])
    return found


def in_tf_keras(model: keras.Model):
    """The same layers and weights in tf_keras, nested models opened up.

    The layers have names of their own: tensorflow-model-optimization splits a SeparableConv2D into
    layers that it calls `conv2d` and `depthwise_conv2d`, as Keras calls those of the user.

    Only layers that have the same name and meaning in tf_keras can be copied: plain ones.

    Raises:
        ValueError: naming a layer that tf_keras has not.
    """
    import tf_keras

    made: dict[int, object] = {}

    def layer(operation):
        if id(operation) not in made:
            kind = getattr(tf_keras.layers, type(operation).__name__, None)
            if kind is None:
                raise ValueError(
                    f"tf_keras has no layer for {operation.name} ({type(operation).__name__})."
                )
            arguments = {**_arguments(kind, operation), "name": f"{operation.name}_copy"}
            made[id(operation)] = kind(**arguments)
        return made[id(operation)]

    def walk(functional, inputs):
        known = {id(symbol): value for symbol, value in zip(functional.inputs, inputs)}
        for node in graph.nodes_in_order(functional):
            if graph.is_input(node):
                continue
            given = [known[id(symbol)] for symbol in graph.input_tensors(node)]
            if isinstance(node.operation, keras.Model):
                results = walk(graph.functional_of(node.operation), given)
            else:
                copy = layer(node.operation)
                results = [copy(given[0] if len(given) == 1 else given)]
                copy.set_weights(node.operation.get_weights())
            known.update((id(s), value) for s, value in zip(graph.output_tensors(node), results))
        return [known[id(symbol)] for symbol in functional.outputs]

    inputs = [
        tf_keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=f"input_{number}")
        for number, tensor in enumerate(model.inputs)
    ]
    outputs = walk(graph.functional_of(model), inputs)
    return tf_keras.Model(inputs, outputs[0] if len(outputs) == 1 else outputs, name=model.name)


def _arguments(kind: type, operation) -> dict:
    """What of a Keras 3 config the tf_keras layer of the same name takes.

    How weights began and what constrained them is left out: the weights are there already.
    """
    known = {"name", "trainable"}
    for base in kind.__mro__:
        known.update(inspect.signature(base.__init__).parameters)
    left_out = ("_initializer", "_regularizer", "_constraint", "dtype", "autocast", "self")
    config = operation.get_config()
    return {k: v for k, v in config.items() if k in known and not k.endswith(left_out)}
