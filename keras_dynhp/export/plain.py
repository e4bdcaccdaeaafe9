"""The layers of a model as the device gets them: float32 throughout, loops over time unrolled."""

from __future__ import annotations

import keras

from keras_dynhp.costs.walk import Call, flatten
from keras_dynhp.keras_state import graph
from keras_dynhp.keras_state.model import refresh_statistics
from keras_dynhp.rebuild.anew import config_of, layer_from_config

_HALF = {"float16", "bfloat16", "mixed_float16", "mixed_bfloat16"}


def device_layers(model: keras.Model, shapes, unroll: bool) -> dict[int, object]:
    """What is called on the device instead of operations of a model that it cannot have, by id.

    Half precision becomes float32. Recurrent layers have no dropout: they draw its masks whether
    they are trained or not. Whatever needs no change is not in the result; the model stays as it
    is.

    Args:
        model: a Sequential or Functional Keras 3 model.
        shapes: for each input the shape of one sample, or None where the inputs have fixed ones.
        unroll: whether all loops over time become straight lines, as the quantizer needs;
            otherwise those do that return every step.

    Raises:
        ValueError: naming the layer that has to be made anew and can't be, and why it has to; or
            one that remembers something from one sample to the next.
    """
    made: dict[int, object] = {}
    for call in flatten(model, shapes).calls:
        old = call.operation
        if id(old) in made:
            continue
        if not isinstance(old, keras.layers.Layer):
            if str(getattr(old, "dtype", None)) in _HALF:
                made[id(old)] = graph.copied(old)
                made[id(old)].dtype = "float32"
            continue
        _refuse_memory(old, call.name)
        reasons = _reasons(old, unroll)
        if reasons:
            try:
                made[id(old)] = _for_device(old, call, unroll)
            except Exception as error:
                raise ValueError(
                    f"layer {call.name!r} ({type(old).__name__}) has to be made anew, because "
                    f"{' and '.join(reasons)}, and that failed: {' '.join(str(error).split())}. "
                    "A layer is made anew by its get_config() and from_config(), which have to say "
                    "all that its __init__ needs."
                ) from error
    return made


def _refuse_memory(layer: keras.layers.Layer, name: str) -> None:
    if any(getattr(one, "stateful", False) for one in graph.with_inner(layer)):
        raise ValueError(
            f"layer {name!r} ({type(layer).__name__}) is stateful: the file would have to remember "
            "its state from one call to the next, which it cannot. Make the state an input of the "
            "model (initial_state=...) and an output (return_state=True), with stateful=False."
        )


def _reasons(layer: keras.layers.Layer, unroll: bool) -> list[str]:
    return sorted({part for one in graph.with_inner(layer) for part in _needs(one, unroll)})


def _needs(layer: keras.layers.Layer, unroll: bool):
    if {layer.compute_dtype, layer.variable_dtype} & _HALF:
        yield "the device computes in float32, not in half precision"
    if _is_loop(layer, unroll):
        yield "its loop over time has to be unrolled"
    if _has_dropout(layer):
        yield "the device draws no dropout masks"


def _is_loop(layer: keras.layers.Layer, unroll: bool) -> bool:
    """Whether it has a loop over time that the device cannot run.

    One that returns every step puts them together from slices whose sizes only the running loop
    knows: TensorFlow Lite Micro, which fixes all sizes before, computes nonsense or never ends.
    """
    is_recurrent = isinstance(layer, keras.layers.RNN)
    return is_recurrent and not layer.unroll and (unroll or layer.return_sequences)


def _has_dropout(layer: keras.layers.Layer) -> bool:
    """Whether it is a cell that draws dropout masks."""
    own = vars(layer)
    return "recurrent_dropout" in own and bool(own["recurrent_dropout"] or own.get("dropout"))


def _for_device(old: keras.layers.Layer, call: Call, unroll: bool) -> keras.layers.Layer:
    policy = keras.config.dtype_policy()
    # Layers that it makes inside itself, of which its configuration knows nothing, ask for this.
    keras.config.set_dtype_policy("float32")
    try:
        new = layer_from_config(old, _in_float32(config_of(old)))
        for layer in graph.with_inner(new):
            if _is_loop(layer, unroll):
                layer.unroll = True
            if _has_dropout(layer):
                layer.dropout = layer.recurrent_dropout = 0.0
        tensors = iter(call.inputs)
        args, kwargs = keras.tree.map_structure(
            lambda value: _zeros(next(tensors)) if _is_symbol(value) else value, call.arguments
        )
        new(*args, **kwargs)  # on numbers: layers may make weights in `call` only
    finally:
        keras.config.set_dtype_policy(policy)
    if [w.shape for w in new.weights] != [w.shape for w in old.weights]:
        raise ValueError(
            f"it has {len(old.weights)} weights, and made anew and called once "
            f"{len(new.weights)}, or others; where it makes weights in call(), as its first, call "
            "the model once before"
        )
    for variable, value in zip(new.weights, old.weights):
        variable.assign(keras.ops.cast(value, variable.dtype))
    refresh_statistics(new)
    left = [one.name for one in graph.with_inner(new) if "float16" in str(one.compute_dtype)]
    if left:
        raise ValueError(f"{', '.join(left)} in it computes in half precision all the same")
    return new


def _is_symbol(value) -> bool:
    return isinstance(value, keras.KerasTensor)


def _zeros(tensor):
    return keras.ops.zeros(tensor.shape, "float32" if tensor.dtype in _HALF else tensor.dtype)


def _in_float32(config):
    """A configuration in which nothing is in half precision."""
    if isinstance(config, list | tuple):
        return type(config)(_in_float32(value) for value in config)
    if not isinstance(config, dict):
        return config
    result = {key: _in_float32(value) for key, value in config.items()}
    if "dtype" in result:
        result["dtype"] = _full(result["dtype"])
    return result


def _full(dtype):
    """A dtype or a serialized policy, in float32 if it was in half precision."""
    if isinstance(dtype, dict):
        inner = dict(dtype.get("config") or {})
        if inner.get("name") in _HALF:
            return {**dtype, "config": {**inner, "name": "float32"}}
        return dtype
    return "float32" if isinstance(dtype, str) and dtype in _HALF else dtype
