"""A model as the device gets it: float32 throughout, loops over time unrolled."""

from __future__ import annotations

import keras

_HALF = {"float16", "bfloat16", "mixed_float16", "mixed_bfloat16"}
_RECURRENT = {"RNN", "SimpleRNN", "LSTM", "GRU"}


def device_copy(model: keras.Model, unroll: bool) -> keras.Model:
    """A copy in float32, its recurrent layers unrolled if asked; the model itself if it is so.

    Args:
        model: a Sequential or Functional Keras 3 model.
        unroll: whether loops over time become straight lines, as the quantizer needs.
    """
    config = keras.saving.serialize_keras_object(model)
    rewritten = _rewrite(config, unroll)
    if rewritten == config:
        return model
    rewritten.pop("compile_config", None)
    copy = keras.saving.deserialize_keras_object(rewritten, safe_mode=False)
    for old, new in zip(model.variables, copy.variables):
        new.assign(keras.ops.cast(old, new.dtype))
    return copy


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
    return result


def _full(dtype):
    """A dtype or a serialized policy, in float32 if it was in half precision."""
    if isinstance(dtype, dict):
        inner = dict(dtype.get("config") or {})
        if inner.get("name") in _HALF:
            return {**dtype, "config": {**inner, "name": "float32"}}
        return dtype
    return "float32" if dtype in _HALF else dtype
