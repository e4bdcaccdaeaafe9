"""Private facts about a running `fit`: its epoch iterator, its data adapter, its progress bar."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer, TFEpochIterator
from keras.src.trainers.data_adapters import array_slicing, get_data_adapter
from keras.src.trainers.data_adapters.array_data_adapter import (
    ArrayDataAdapter,
    can_convert_arrays,
)
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

__all__ = [
    "RunningFit",
    "Steps",
    "arrays",
    "batch_unbatched",
    "batch_unbatched_validation",
    "distribute",
    "first_batch",
    "give_back_epochs",
    "has_array_validation",
    "has_begun",
    "hold_arrays_as_tensors",
    "is_array_adapter",
    "is_endless",
    "is_generator_adapter",
    "num_array_samples",
    "num_replicas",
    "out_of_data_warning",
    "reads_ahead",
    "replay_data",
    "resize_arrays",
    "resize_validation",
    "running_fit",
    "set_progress_target",
    "set_steps",
    "take_over_epochs",
]

# Classes of `tf.data`: what reads ahead, and what only passes on what comes.
_READING_AHEAD = frozenset(
    {
        "_PrefetchDataset",
        "_ParallelMapDataset",
        "_ParallelInterleaveDataset",
        "_ParallelBatchDataset",
        "_MapAndBatchDataset",
    }
)
_PASSING_ON = frozenset({"_OptionsDataset", "_AssertCardinalityDataset"})

# What fit's loop unpacks: first step, last step, and the `tf.data` iterator they read.
Steps = Iterator[tuple[int, int, object]]


@dataclasses.dataclass(frozen=True, eq=False)
class RunningFit:
    """What a running `fit` holds in its local variables.

    Args:
        epoch_iterator: over which it loops, once each epoch.
        callbacks: the CallbackList that it calls.
        arguments: the values of its arguments (`batch_size`, `class_weight`, ...).
    """

    epoch_iterator: TFEpochIterator
    callbacks: keras.callbacks.CallbackList
    arguments: dict[str, object]


def running_fit(model: keras.Model) -> RunningFit:
    """The call of `model.fit` from which the current callback method was called.

    Keras keeps its epoch iterator in a local variable of `fit` and hands it to nobody, so it is
    read from the calling frames.

    Raises:
        RuntimeError: `model.fit` is not among the callers, or has not yet made its iterator.
    """
    code = TensorFlowTrainer.fit.__wrapped__.__code__
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("self") is model:
            variables = frame.f_locals
            break
        frame = frame.f_back
    else:
        raise RuntimeError(
            f"The data of {model.name!r} can only be reached while its `fit` runs. Received: a "
            "call from outside. Call this in a callback's `on_train_begin` or `on_epoch_end`."
        )
    names = code.co_varnames[: code.co_argcount]
    arguments = {name: variables[name] for name in names if name not in ("self", "callbacks")}
    # Keras unpacks `validation_data` into these.
    for name in ("val_x", "val_y", "val_sample_weight"):
        arguments[name] = variables.get(name)
    return RunningFit(variables["epoch_iterator"], variables["callbacks"], arguments)


def take_over_epochs(
    epoch_iterator: TFEpochIterator,
    epoch: Callable[[], Steps],
    data_ended: Callable[[], None],
) -> None:
    """Let `epoch()` say what one epoch of a running fit is, in place of Keras.

    `fit` loops over `epoch_iterator`, whose `__iter__` takes `self._enumerate_iterator()`. Where
    the data end inside a step, Keras calls `self._interrupted_warning()`; `data_ended` is called
    instead, and Keras then calls the data adapter's `on_epoch_end`.
    """
    vars(epoch_iterator)["_enumerate_iterator"] = epoch
    vars(epoch_iterator)["_interrupted_warning"] = data_ended


def give_back_epochs(epoch_iterator: TFEpochIterator) -> None:
    """Undo `take_over_epochs`."""
    vars(epoch_iterator).pop("_enumerate_iterator", None)
    vars(epoch_iterator).pop("_interrupted_warning", None)


def when_interrupted(model: keras.Model, then: Callable[[], None]) -> None:
    """From `on_train_begin`: call `then()` if an error or Ctrl-C ends the fit.

    Keras calls no callback then. It runs the steps of an epoch, and those of a validation, inside
    `catch_stop_iteration()` of what they read; between them it calls callbacks.
    """
    fit = running_fit(model)
    _call_on_errors(fit.epoch_iterator, "catch_stop_iteration", then)
    for name in ("on_epoch_begin", "on_epoch_end"):
        _call_on_errors(fit.callbacks, name, then)
    on_test_begin = fit.callbacks.on_test_begin

    def on_validation_begin(logs=None):
        reads = getattr(model, "_eval_epoch_iterator", None)
        if reads is not None:
            _call_on_errors(reads, "catch_stop_iteration", then)
        on_test_begin(logs)

    vars(fit.callbacks).setdefault("on_test_begin", on_validation_begin)


def _call_on_errors(thing, method: str, then: Callable[[], None]) -> None:
    """Let a method call `then()` if it, or the context that it returns, ends with an error."""
    original = getattr(thing, method)

    def call(*args, **kwargs):
        with calling():
            result = original(*args, **kwargs)
        return result if result is None else calling(result)

    @contextlib.contextmanager
    def calling(context=None):
        try:
            with context or contextlib.nullcontext():
                yield
        except BaseException:
            then()
            raise

    vars(thing).setdefault(method, call)  # once: a user's own list of callbacks may be used again


def has_begun(epoch_iterator: TFEpochIterator) -> bool:
    """Whether a fit has begun to read its data, or somebody has taken over its epochs."""
    taken_over = "_enumerate_iterator" in vars(epoch_iterator)
    return taken_over or epoch_iterator._epoch_iterator is not None


def out_of_data_warning(epoch_iterator: TFEpochIterator) -> None:
    """Say, in Keras's own words, that the input ran out of data."""
    TFEpochIterator._interrupted_warning(epoch_iterator)


def replay_data(model: keras.Model, epochs: int) -> None:
    """From `on_train_begin`: read the training data of some epochs as `fit` would, for nothing.

    Afterwards shuffling, generators and datasets with a state of their own are where they are in
    a fit after these epochs. Arrays need no reading: where a seed is set, Keras gives them the
    same order in each epoch.
    """
    epoch_iterator = running_fit(model).epoch_iterator
    if is_array_adapter(epoch_iterator.data_adapter) and not epoch_iterator.steps_per_epoch:
        return
    for _ in range(epochs):
        with epoch_iterator.catch_stop_iteration():
            for begin, end, batches in epoch_iterator:
                for step in range(begin, end + 1):
                    if next(batches, None) is None:
                        if step == begin:
                            raise StopIteration
                        break  # the last execution has fewer steps


def is_array_adapter(adapter: DataAdapter) -> bool:
    """Whether the data are arrays or tensors, which Keras itself cuts into batches."""
    return isinstance(adapter, ArrayDataAdapter)


def is_generator_adapter(adapter: DataAdapter) -> bool:
    """Whether the data are a Python generator, which can be read only once."""
    return isinstance(adapter, GeneratorDataAdapter)


def hold_arrays_as_tensors(epoch_iterator: TFEpochIterator) -> Callable[[], None]:
    """Let all the datasets that an array adapter will make share one copy of the arrays.

    Each dataset made from NumPy arrays copies them; datasets made from tensors share them. The
    dataset that Keras has made is dropped first, so there are never two copies, and made again.

    Returns:
        A function that gives the adapter its arrays and its batch size back.
    """
    adapter = epoch_iterator.data_adapter
    arrays, batch_size = adapter._inputs, adapter._batch_size
    epoch_iterator._distributed_dataset = None
    with tf.device("CPU:0"):  # where tf.data wants them; the default would be a GPU
        adapter._inputs = keras.tree.map_structure(_as_tensor, arrays)
    epoch_iterator._distributed_dataset = distribute(epoch_iterator, adapter.get_tf_dataset())

    def give_back() -> None:
        adapter._inputs = arrays
        resize_arrays(adapter, batch_size)

    return give_back


def resize_arrays(adapter: ArrayDataAdapter, batch_size: int) -> None:
    """Let the datasets that an array adapter makes from now on have another batch size."""
    adapter._batch_size = batch_size
    adapter._size = math.ceil(adapter._num_samples / batch_size)
    adapter._partial_batch_size = adapter._num_samples % batch_size


def arrays(adapter: ArrayDataAdapter):
    """The arrays themselves: inputs, and what comes with them."""
    return adapter._inputs


def num_array_samples(adapter: ArrayDataAdapter) -> int:
    """How many samples the arrays have."""
    return adapter._num_samples


def distribute(epoch_iterator: TFEpochIterator, dataset: tf.data.Dataset):
    """The dataset as fit's train function reads it: split among the replicas of the strategy."""
    return epoch_iterator._distribute_strategy.experimental_distribute_dataset(dataset)


def num_replicas(epoch_iterator: TFEpochIterator) -> int:
    """Into how many parts each batch is split."""
    return epoch_iterator._distribute_strategy.num_replicas_in_sync


def is_endless(adapter: DataAdapter) -> bool:
    """Whether the data are known to have no end; of a generator that cannot be known."""
    if isinstance(adapter, TFDatasetAdapter):
        return adapter.get_tf_dataset().cardinality() == tf.data.INFINITE_CARDINALITY
    return isinstance(adapter, PyDatasetAdapter) and adapter.num_batches is None


def first_batch(adapter: DataAdapter):
    """A first batch that can be had without reading ahead, or None (any other data).

    Keras has read the first batches of a generator to learn their shapes, and keeps them. A
    PyDataset gives any batch at any time, but must not be iterated before `on_epoch_begin`.
    """
    if isinstance(adapter, GeneratorDataAdapter):
        return adapter._first_batches[0]
    if isinstance(adapter, PyDatasetAdapter):
        return adapter._standardize_batch(adapter.py_dataset[0])
    return None


def reads_ahead(dataset: tf.data.Dataset) -> bool:
    """Whether a pipeline ends with a transformation that prepares elements before they are asked.

    Behind any other one tf.data itself puts a prefetch. That the last one does is told by its
    class; options, counts and the like come after it and change nothing.
    """
    while type(dataset).__name__ in _PASSING_ON:
        (dataset,) = dataset._inputs()
    return type(dataset).__name__ in _READING_AHEAD


def batch_unbatched(fit: RunningFit, batch_size: int) -> None:
    """Batch a `tf.data.Dataset` of single samples, which Keras would take for batches."""
    iterator = fit.epoch_iterator
    dataset = fit.arguments["x"].batch(batch_size)
    iterator.data_adapter = get_data_adapter(x=dataset, class_weight=fit.arguments["class_weight"])
    iterator._num_batches = iterator.data_adapter.num_batches
    iterator._distributed_dataset = distribute(iterator, iterator.data_adapter.get_tf_dataset())


def batch_unbatched_validation(model: keras.Model, fit: RunningFit, batch_size: int) -> None:
    """Batch the validation data likewise: `fit` uses the iterator that it finds on the model."""
    iterator = fit.epoch_iterator
    model._eval_epoch_iterator = TFEpochIterator(
        x=fit.arguments["val_x"].batch(batch_size),
        distribute_strategy=iterator._distribute_strategy,
        steps_per_execution=iterator.steps_per_execution,
        steps_per_epoch=fit.arguments["validation_steps"],
        shuffle=False,
    )


def has_array_validation(fit: RunningFit) -> bool:
    """Whether the validation data are arrays or tensors, which Keras itself cuts into batches."""
    names = ("val_x", "val_y", "val_sample_weight")
    return fit.arguments["val_x"] is not None and can_convert_arrays(
        tuple(fit.arguments[name] for name in names)
    )


def resize_validation(model: keras.Model, fit: RunningFit, batch_size: int) -> None:
    """Cut validation arrays into batches of this size from now on."""
    iterator = fit.epoch_iterator
    model._eval_epoch_iterator = None  # first, so that there are never two copies of the arrays
    model._eval_epoch_iterator = TFEpochIterator(
        x=fit.arguments["val_x"],
        y=fit.arguments["val_y"],
        sample_weight=fit.arguments["val_sample_weight"],
        batch_size=batch_size,
        distribute_strategy=iterator._distribute_strategy,
        steps_per_execution=iterator.steps_per_execution,
        shuffle=False,
    )


def set_steps(callbacks: keras.callbacks.CallbackList, steps: int | None) -> None:
    """Tell every callback how many steps an epoch has: `params` is one dict that all share."""
    callbacks.params["steps"] = steps


def set_progress_target(callbacks: keras.callbacks.CallbackList, steps: int | None) -> None:
    """Tell the progress bar: its logger copies the number once, and the bar on display again."""
    for callback in callbacks.callbacks:
        if isinstance(callback, keras.callbacks.ProgbarLogger):
            callback.target = steps
            if callback.progbar is not None:
                callback.progbar.target = steps


def _as_tensor(array):
    """The tensor that Keras would put into the dataset; sparse arrays stay as they are."""
    converted = array_slicing.convert_to_sliceable(array, target_backend="tensorflow")
    if isinstance(converted, array_slicing.TensorflowSparseWrapper):
        return array
    return tf.convert_to_tensor(converted) if isinstance(converted, np.ndarray) else converted
