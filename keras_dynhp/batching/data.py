"""Changing the training batch size while `fit` runs."""

from __future__ import annotations

from typing import Protocol

import keras
import tensorflow as tf

from keras_dynhp.batching.sources import ArraySource, Source, StreamSource
from keras_dynhp.keras_state import fit as fit_state
from keras_dynhp.keras_state import graph as graph_state

__all__ = ["FitData"]

_KERAS_BATCH_SIZE = 32  # where `fit` is given none


class Watch(Protocol):
    """Is told where an epoch stands."""

    def pipeline_made(self, holds_all: bool) -> None:
        """The epoch's pipeline is there, and nothing has been read from it.

        Args:
            holds_all: whether it has no buffers that are still to be filled.
        """

    def first_step_done(self) -> None:
        """The first step (or steps, of an execution) is done, and another one follows."""


class FitData:
    """The training data of a running `fit`, whose batch size may change from epoch to epoch.

    Whatever the batch size does, an epoch has the same samples as an epoch of plain `fit`, each
    once: all of the data or, with `steps_per_epoch`, what so many of the user's own batches
    hold, which takes fewer steps with a larger batch. Arrays and tensors, `tf.data` (of known,
    unknown or, with `steps_per_epoch`, infinite length; elements are batches, or single samples
    if their shape is that of the model's input), `PyDataset` and generators. Progress bar and
    `params["steps"]` follow; validation keeps its batch size unless that is limited. As long as
    the batch size is the user's own, the order of the samples is that of plain `fit`.

    Made by `attach` in a callback's `on_train_begin`; `detach` it in `on_train_end`.

    Attributes:
        batch_size: samples in each step of the next epoch, all replicas together.
        num_replicas: into how many equal parts a batch is split.
        sample_shapes: of one sample for each input of the model; where lengths vary, those of a
            first batch; None where inputs of a dict have other names than the model's.
        holds_arrays: whether the data are arrays, of which it holds the copy that `fit` had.
        limits_validation: whether an epoch is validated in batches no larger than it was trained
            in. Only arrays that Keras cuts in a size of its own choice, and all of them.

    Example:

    >>> class Doubling(keras.callbacks.Callback):
    ...     def on_train_begin(self, logs=None):
    ...         self.data = FitData.attach(self.model)
    ...     def on_epoch_end(self, epoch, logs=None):
    ...         print(f"{self.data.num_samples} samples in {self.data.steps} steps")
    ...         self.data.set_batch_size(2 * self.data.batch_size)
    ...     def on_train_end(self, logs=None):
    ...         self.data.detach()
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = keras.ops.ones((20, 3)), keras.ops.ones((20, 1))
    >>> history = model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[Doubling()])
    20 samples in 5 steps
    20 samples in 3 steps
    20 samples in 2 steps
    """

    def __init__(self, model, epoch_iterator, callbacks, watch: Watch | None) -> None:
        self._epoch_iterator = epoch_iterator
        self._watch = watch
        self._callbacks = callbacks
        self._give_back_arrays = None
        self.holds_arrays = fit_state.is_array_adapter(epoch_iterator.data_adapter)
        if self.holds_arrays:
            self._give_back_arrays = fit_state.hold_arrays_as_tensors(epoch_iterator)
        self.limits_validation = False
        self._validation: _Validation | None = None
        self._source = source = _source(epoch_iterator)
        self._exact = True  # whether the number of steps of the running epoch is certain
        self._joins = source.joins  # also when the data have been let go of
        self._running = source.batch_size  # the batch size of the running epoch
        self.batch_size = source.batch_size
        self.num_replicas = fit_state.num_replicas(epoch_iterator)
        self.sample_shapes = source.sample_shapes
        if isinstance(self.sample_shapes, dict):
            self.sample_shapes = _by_input(model, self.sample_shapes)

    @classmethod
    def attach(cls, model: keras.Model, watch: Watch | None = None) -> FitData:
        """Take charge of the data of the running `model.fit`, from `on_train_begin`.

        Args:
            model: that is trained.
            watch: who wants to know where an epoch stands.

        Raises:
            RuntimeError: `fit` does not run, or has begun to read its data, or another FitData
                is attached to it.
            ValueError: infinite data without `steps_per_epoch`; data already distributed.
        """
        fit = fit_state.running_fit(model)
        iterator = fit.epoch_iterator
        if fit_state.has_begun(iterator):
            raise RuntimeError(
                f"The batch size of {model.name!r} can only be taken charge of once, before the "
                "first epoch. Received: a fit whose data are being read or already taken charge "
                "of. Attach in `on_train_begin`, and use one batch-resizing callback in a fit."
            )
        _check(fit)
        _batch_single_samples(model, fit)
        data = cls(model, iterator, fit.callbacks, watch)
        data._validation = _Validation.of(model, fit)
        fit_state.take_over_epochs(iterator, data._epoch, data._data_ended)
        return data

    @property
    def num_samples(self) -> int | None:
        """Samples in one epoch; None before data of unknown size have been read once."""
        return self._source.num_samples

    @property
    def steps(self) -> int | None:
        """Steps of the next epoch; an estimate or None where the size of the data is unknown."""
        return self._source.steps(self.batch_size)

    @property
    def pace(self) -> float:
        """How many steps at the user's own batch size one step of the next epoch stands for.

        So that an epoch moves a learning rate schedule by the same whatever its batch size.
        """
        steps, own = self.steps, self._source.steps(self._source.batch_size)
        if not steps or not own:
            return self.batch_size / self._source.batch_size
        return own / steps

    def set_batch_size(self, batch_size: int) -> None:
        """Set the batch size of the epochs that begin from now on.

        Where samples differ in length from batch to batch, no batch can be larger than the user's
        own: `batch_size` then becomes that.

        Args:
            batch_size: samples in a step, all replicas together.

        Raises:
            ValueError: not a positive multiple of the number of replicas.
        """
        if batch_size < 1 or batch_size % self.num_replicas:
            raise ValueError(
                "A batch must hold at least one sample and split evenly among the replicas. "
                f"Received: batch_size={batch_size} for {self.num_replicas} replica(s). Use a "
                f"positive multiple of {self.num_replicas}."
            )
        own = self._source.batch_size
        self.batch_size = int(batch_size if self._source.joins else min(batch_size, own))
        fit_state.set_steps(self._callbacks, self.steps)

    def get_state(self) -> dict:
        """What a resumed run needs to know, as plain values."""
        return {"batch_size": self.batch_size, "joins": self._joins}

    def set_state(self, state: dict) -> None:
        """Go on from `get_state`."""
        self._joins = self._source.joins = bool(state["joins"])
        self.set_batch_size(int(state["batch_size"]))

    def detach(self) -> None:
        """Give the data back to Keras as they were and let go of them: the last call of all."""
        if self._source is None:
            return
        fit_state.give_back_epochs(self._epoch_iterator)
        if self._give_back_arrays is not None:
            self._give_back_arrays()
        self._source = self._epoch_iterator = self._callbacks = self._give_back_arrays = None
        self._validation = None

    def _epoch(self) -> fit_state.Steps:
        """One epoch of `fit`: first and last step of each execution, and what they read."""
        adapter = self._epoch_iterator.data_adapter
        adapter.on_epoch_begin()
        self._running = self.batch_size
        self._exact = self._source.is_exact(self._running)
        steps = self.steps
        self._tell_steps(steps)
        at_once = self._epoch_iterator.steps_per_execution
        dataset = self._source.dataset(self._running)
        iterator = iter(fit_state.distribute(self._epoch_iterator, dataset))
        if self._watch is not None:
            self._watch.pipeline_made(self.holds_arrays)
        if self._exact:
            for step in range(0, steps, at_once):
                if step == at_once and self._watch is not None:
                    self._watch.first_step_done()
                yield step, min(step + at_once, steps) - 1, iterator
            self._end_epoch()
            adapter.on_epoch_end()
            return
        step = 0
        while True:  # until the data end, which Keras answers with `_data_ended`
            if step == at_once and self._watch is not None:
                self._watch.first_step_done()
            yield step, step + at_once - 1, iterator
            step += at_once

    def _data_ended(self) -> None:
        self._tell_steps(self._end_epoch())

    def _end_epoch(self) -> int:
        steps, whole = self._source.end_epoch(self._running)
        self._joins = self._source.joins
        if self.limits_validation and self._validation is not None:
            self._validation.limit(self._running)
        if not whole:
            fit_state.out_of_data_warning(self._epoch_iterator)
        return steps

    def _tell_steps(self, steps: int | None) -> None:
        fit_state.set_steps(self._callbacks, steps)
        fit_state.set_progress_target(self._callbacks, steps)


class _Validation:
    """Validation arrays for which `fit` was given no batch size and no number of steps."""

    def __init__(self, model: keras.Model, fit: fit_state.RunningFit) -> None:
        self._model, self._fit = model, fit
        self._own = self._size = fit.arguments["batch_size"] or _KERAS_BATCH_SIZE

    @classmethod
    def of(cls, model: keras.Model, fit: fit_state.RunningFit) -> _Validation | None:
        """None where the user has chosen, or the data come in batches."""
        if fit.arguments["validation_batch_size"] or fit.arguments["validation_steps"]:
            return None
        return cls(model, fit) if fit_state.has_array_validation(fit) else None

    def limit(self, most: int) -> None:
        """Between training and validation: no batch larger than this, nor than Keras's own."""
        size = min(self._own, most)
        if size != self._size:
            fit_state.resize_validation(self._model, self._fit, size)
            self._size = size


def _check(fit: fit_state.RunningFit) -> None:
    iterator = fit.epoch_iterator
    if isinstance(fit.arguments["x"], tf.distribute.DistributedDataset):
        raise ValueError(
            "The batches of data that are already distributed cannot be resized. Received: "
            "x=<DistributedDataset>. Give `fit` the plain dataset: it distributes it."
        )
    if not iterator.steps_per_epoch and fit_state.is_endless(iterator.data_adapter):
        raise ValueError(
            "An epoch of infinite data has no end. Received: infinite training data and "
            "steps_per_epoch=None. Pass `steps_per_epoch` to `fit`."
        )


def _by_input(model: keras.Model, shapes: dict) -> list | None:
    """Shapes that have names, in the order of the model's inputs."""
    functional = graph_state.functional_of(model)
    given, _ = graph_state.structure(functional)
    keys = {id(tensor): key for key, tensor in given.items()} if isinstance(given, dict) else {}
    names = [keys.get(id(tensor), tensor.name) for tensor in functional.inputs]
    return [shapes[name] for name in names] if set(names) <= set(shapes) else None


def _source(epoch_iterator) -> Source:
    adapter = epoch_iterator.data_adapter
    steps_per_epoch = epoch_iterator.steps_per_epoch
    one_pass = not steps_per_epoch or steps_per_epoch == adapter.num_batches
    if one_pass and fit_state.is_array_adapter(adapter):
        return ArraySource(adapter)
    return StreamSource(
        dataset=adapter.get_tf_dataset(),
        first=fit_state.first_batch(adapter),
        num_batches=adapter.num_batches,
        steps_per_epoch=steps_per_epoch,
        once=fit_state.is_generator_adapter(adapter),
    )


def _batch_single_samples(model: keras.Model, fit: fit_state.RunningFit) -> None:
    """Batch `tf.data` whose elements are single samples, which Keras cannot train on."""
    batch_size = fit.arguments["batch_size"] or _KERAS_BATCH_SIZE
    if _has_single_samples(model, fit.arguments["x"]):
        fit_state.batch_unbatched(fit, batch_size)
    if _has_single_samples(model, fit.arguments["val_x"]):
        size = fit.arguments["validation_batch_size"] or batch_size
        fit_state.batch_unbatched_validation(model, fit, size)


def _has_single_samples(model: keras.Model, dataset) -> bool:
    """Whether the elements of a dataset have the shapes of the model's inputs without batch."""
    if not isinstance(dataset, tf.data.Dataset):
        return False
    x, _, _ = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)
    parts, inputs = tf.nest.flatten(x), tf.nest.flatten(getattr(model, "inputs", None) or [])
    return len(parts) == len(inputs) and all(
        _is_single(part.shape, tensor.shape[1:]) for part, tensor in zip(parts, inputs)
    )


def _is_single(shape: tf.TensorShape, sample: tuple) -> bool:
    if shape.rank != len(sample) or not shape.is_compatible_with(sample):
        return False
    # (None,) for samples of shape (1,) is a batch: Keras adds the axis of length one.
    return shape.rank == 0 or shape[0] is not None or sample[0] is None
