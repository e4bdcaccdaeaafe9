"""Private facts about compiled metrics: when their variables are made."""

from __future__ import annotations

import keras

from keras_dynhp.keras_state.fit import running_fit

__all__ = ["build_metrics"]


def build_metrics(model: keras.Model) -> None:
    """Before the first step of a running fit: make the variables of the compiled metrics.

    Keras makes them within the first step, and TensorFlow traces a function that makes variables
    twice. Here they are made from the shapes of the targets and of the model's outputs, as Keras
    makes them. Nothing is done where that is not all that Keras would ask: where the model has a
    `train_step` or `compute_metrics` of its own, where there are no targets or their number of
    axes is not known, and outside `fit`.
    """
    metrics = model._compile_metrics
    own = any(
        getattr(type(model), name) is not getattr(keras.Model, name)
        for name in ("train_step", "compute_metrics")
    )
    if metrics is None or metrics.built or own:
        return
    try:
        data = running_fit(model).epoch_iterator._distributed_dataset
    except RuntimeError:
        return
    _, y, _ = keras.utils.unpack_x_y_sample_weight(data.element_spec)
    specs = keras.tree.flatten(y)
    if not specs or any(spec is None or spec.shape.rank is None for spec in specs):
        return
    functional = model._functional if isinstance(model, keras.Sequential) else model
    y = keras.tree.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), y)
    metrics.build(y, functional._outputs_struct)
