"""A model as the device gets it: fixed lengths, float32 throughout, loops over time unrolled."""

from __future__ import annotations

import copy

import keras

from keras_dynhp.keras_state import graph
from keras_dynhp.keras_state.model import refresh_statistics

_HALF = {"float16", "bfloat16", "mixed_float16", "mixed_bfloat16"}
_RECURRENT = {"RNN", "SimpleRNN", "LSTM", "GRU"}


def with_lengths_of(model: keras.Model, samples) -> keras.Model:
    """A copy whose inputs have the lengths of the samples; the model itself if all are fixed.

    Args:
        model: a Sequential or Functional Keras 3 model.
        samples: for each of its inputs an array of samples.
    """
    inputs = graph.functional_of(model).inputs
    if all(None not in tensor.shape[1:] for tensor in inputs):
        return model
    shapes = {graph.maker_of(t).name: list(x.shape[1:]) for t, x in zip(inputs, samples)}
    config = copy.deepcopy(keras.saving.serialize_keras_object(model))
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "InputLayer" and layer["config"]["name"] in shapes:
            shape = shapes[layer["config"]["name"]]
            layer["config"]["batch_shape"] = [layer["config"]["batch_shape"][0], *shape]
    config["config"].pop("build_input_shape", None)
    return _made(model, config)


def device_copy(model: keras.Model, unroll: bool) -> keras.Model:
    """A copy in float32, its recurrent layers unrolled if asked; the model itself if it is so.

    Recurrent layers have no dropout in it: they draw its masks whether they are trained or not.

    Args:
        model: a Sequential or Functional Keras 3 model.
        unroll: whether loops over time become straight lines, as the quantizer needs.
    """
    config = keras.saving.serialize_keras_object(model)
    rewritten = _rewrite(config, unroll)
    if rewritten == config:
        return model
    return _made(model, rewritten)


def _made(model: keras.Model, config: dict) -> keras.Model:
    """A model from a configuration, with the weights of another."""
    for key in ("compile_config", "build_config"):
        config.pop(key, None)
    made = keras.saving.deserialize_keras_object(config, safe_mode=False)
    # By layer of the graph: a user's class may have others beside it, or have none of them anew.
    layers = (graph.functional_of(one).layers for one in (model, made))
    for old_layer, new_layer in zip(*layers, strict=True):
        for old, new in zip(old_layer.weights, new_layer.weights, strict=True):
            new.assign(keras.ops.cast(old, new.dtype))
    refresh_statistics(made)
    return made


def _rewrite(config, unroll: bool):
    if isinstance(config, list | tuple):
        return type(config)(_rewrite(value, unroll) for value in config)
    if not isinstance(config, dict):
        return config
    result = {key: _rewrite(value, unroll) for key, value in config.items()}
    if "dtype" in result:
        result["dtype"] = _full(result["dtype"])
    if unroll and config.get("class_name") in _RECURRENT:
        result["config"] = {**result["config"], "unroll": True}
    if "recurrent_dropout" in result:
        result.update(dropout=0.0, recurrent_dropout=0.0)
    return result


def _full(dtype):
    """A dtype or a serialized policy, in float32 if it was in half precision."""
    if isinstance(dtype, dict):
        inner = dict(dtype.get("config") or {})
        if inner.get("name") in _HALF:
            return {**dtype, "config": {**inner, "name": "float32"}}
        return dtype
    return "float32" if dtype in _HALF else dtype
