"""Where the batches of a running fit come from, at any batch size."""

from __future__ import annotations

import math
from typing import Protocol

import keras
import tensorflow as tf

from keras_dynhp.keras_state import fit as fit_state

__all__ = ["ArraySource", "Source", "StreamSource"]


SampleShapes = list[tuple[int | None, ...]] | dict[str, tuple[int | None, ...]]


class Source(Protocol):
    """The training data of one fit.

    Attributes:
        batch_size: the user's own.
        num_samples: in one epoch; None before an epoch of data of unknown size has been counted.
        sample_shapes: the shape of one sample for each input, by name where inputs come in a dict.
        joins: whether samples of several of the user's batches can be in one.
    """

    batch_size: int
    num_samples: int | None
    sample_shapes: SampleShapes
    joins: bool

    def steps(self, batch_size: int) -> int | None:
        """Steps of one epoch: exact or, where that cannot be known, the best estimate, or None."""

    def is_exact(self, batch_size: int) -> bool:
        """Whether `steps` is exact; where it is not, an epoch ends when its data end."""

    def dataset(self, batch_size: int) -> tf.data.Dataset:
        """The batches of the epoch that begins now."""

    def end_epoch(self, batch_size: int) -> tuple[int, bool]:
        """Take note that an epoch ended: the steps it had, and whether its data were all there."""


class ArraySource:
    """Arrays: Keras's own pipeline, made anew at each batch size around one copy of the arrays.

    So the order of the samples is the one that plain `fit` would give at that batch size.
    """

    def __init__(self, adapter) -> None:
        self._adapter = adapter
        self.joins = True
        self.batch_size = adapter.batch_size
        self.num_samples = fit_state.num_array_samples(adapter)
        self.sample_shapes = _sample_shapes(fit_state.arrays(adapter))
        self._made: tuple[int, tf.data.Dataset] | None = None

    def steps(self, batch_size: int) -> int:
        return math.ceil(self.num_samples / batch_size)

    def is_exact(self, batch_size: int) -> bool:
        return True

    def dataset(self, batch_size: int) -> tf.data.Dataset:
        if self._made is None or self._made[0] != batch_size:
            fit_state.resize_arrays(self._adapter, batch_size)
            self._made = (batch_size, _without_autotune(self._adapter.get_tf_dataset()))
        return self._made[1]

    def end_epoch(self, batch_size: int) -> tuple[int, bool]:
        return self.steps(batch_size), True


class StreamSource:
    """Data that come in the user's own batches: they are cut and joined to the wanted size.

    An epoch is made of the same user's batches as an epoch of plain `fit`: all of them or, with
    `steps_per_epoch`, the next so many. No batch is read twice and none is dropped where the
    batch size changes; the last batch of an epoch may be smaller. Where samples may differ in
    length from batch to batch, batches are cut and not joined, until an epoch has shown that none
    differs.

    Args:
        dataset: its elements are the user's batches.
        first: a batch to learn the user's batch size from; None: the dataset's first, which is
            then kept for the first epoch.
        num_batches: of the dataset; None where unknown or infinite.
        steps_per_epoch: as given to `fit`.
        once: whether the data can be read only once (a generator).
    """

    def __init__(self, dataset, first, num_batches, steps_per_epoch, once) -> None:
        # Batches that wait count against the budget. So there are as many as the user's pipeline
        # has ready, or else one, and not the ones more that tf.data would like to add.
        self._dataset = _without_more_ahead(dataset)
        self._reads_ahead = fit_state.reads_ahead(dataset)
        self._num_batches = num_batches
        self._steps_per_epoch = steps_per_epoch
        self._once = once
        self._iterator = None  # the one that is being read on, if any
        self._peeked: tf.data.Dataset | None = None  # what has been read from it and not been given
        self._position = 0  # the user's batches given from it
        if first is None:
            self._iterator = iter(self._dataset)
            first = next(self._iterator, None)
            if first is None:
                raise ValueError(
                    "The training data are empty. Received: a dataset without a single batch. "
                    "Give at least one."
                )
            self._peeked = _once(first, dataset.element_spec)
        self.batch_size = int(_rows(first))
        self.sample_shapes = _sample_shapes(first)
        self.num_samples = None
        self._batches: int | None = None  # in the last whole epoch
        self._made: tuple[int, tf.data.Dataset] | None = None
        self._epochs = 0
        parts = tf.nest.flatten(dataset.element_spec)
        # Ragged ones are joined whatever their lengths.
        shapes = [part.shape[1:] for part in parts if isinstance(part, tf.TensorSpec)]
        self.joins = all(shape.is_fully_defined() for shape in shapes)
        with tf.device("CPU:0"):
            self._counts = tf.Variable([0, 0, 0], dtype="int64", trainable=False, name="seen")
            self._first = [tf.shape(p, "int64")[1:] for p in _dense(first)]

    def steps(self, batch_size: int) -> int | None:
        batches = self._next_batches()
        if batches is None:
            batches = self._batches
        if batch_size == self.batch_size:
            return batches
        if not self.joins:
            return None if batches is None else batches * math.ceil(self.batch_size / batch_size)
        if self.num_samples is not None:
            return math.ceil(self.num_samples / batch_size)
        return None if batches is None else math.ceil(batches * self.batch_size / batch_size)

    def is_exact(self, batch_size: int) -> bool:
        if batch_size == self.batch_size:
            return self._next_batches() is not None
        # The user's batches may differ in size, so another part of them may hold more samples.
        declared = self._num_batches is not None and not self._steps_per_epoch
        return declared and self.num_samples is not None and self.joins

    def dataset(self, batch_size: int) -> tf.data.Dataset:
        self._counts.assign([0, 0, 0])
        read = self._read()
        if read is not self._dataset:  # what is left of an iterator: of use once
            return self._prepared(read, batch_size)
        if self._made is None or self._made[0] != batch_size:
            self._made = (batch_size, self._prepared(read, batch_size))
        return self._made[1]

    def _prepared(self, batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        batches = _counted(batches, self._counts, [] if self.joins else self._first)
        if batch_size != self.batch_size:
            batches = _rebatch(batches, batch_size, self.joins)
        if not self._reads_ahead:
            batches = batches.prefetch(1)
        return _without_more_ahead(batches)

    def end_epoch(self, batch_size: int) -> tuple[int, bool]:
        batches, samples, others = (int(count) for count in self._counts.numpy())
        whole = self._is_whole(batches)
        self._epochs += 1
        self._position += batches
        at_end = self._num_batches is not None and self._position >= self._num_batches
        if not self._steps_per_epoch or not whole or at_end:
            self._iterator, self._position = None, 0
        if not self._steps_per_epoch and self._num_batches is not None:
            # Keras makes one iterator more after each epoch, and a seeded shuffle counts them.
            iter(self._dataset)
        if whole:
            self._batches, self.num_samples = batches, samples
        steps = math.ceil(samples / batch_size)
        if batch_size == self.batch_size:
            steps = batches
        elif not self.joins:
            steps = batches * math.ceil(self.batch_size / batch_size)
        if whole and not others and not self.joins:
            self.joins, self._made = True, None
        return steps, whole

    def _is_whole(self, batches: int) -> bool:
        if self._steps_per_epoch:
            return batches >= self._steps_per_epoch
        if self._num_batches is not None:
            return batches >= self._num_batches
        return not (self._once and self._epochs > 0)

    def _next_batches(self) -> int | None:
        """How many of the user's batches the next epoch takes; None: all, however many."""
        if not self._steps_per_epoch:
            return self._num_batches
        if self._num_batches is None:
            return self._steps_per_epoch
        return min(self._steps_per_epoch, self._num_batches - self._position)

    def _read(self) -> tf.data.Dataset:
        """The user's batches of the epoch that begins now."""
        if self._iterator is None and not self._steps_per_epoch:
            return self._dataset
        if self._iterator is None:
            self._iterator = iter(self._dataset)
        take = self._next_batches()
        peeked, self._peeked = self._peeked, None
        if peeked is None:
            return _rest(self._iterator, take)
        rest = _rest(self._iterator, None if take is None else take - 1)
        return peeked.concatenate(rest)


def _sample_shapes(data) -> SampleShapes:
    """The shape of one sample for each input, of arrays or of a batch."""
    inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
    if isinstance(inputs, dict):
        return {name: tuple(part.shape)[1:] for name, part in inputs.items()}
    return [tuple(part.shape)[1:] for part in tf.nest.flatten(inputs) if hasattr(part, "shape")]


def _dense(batch) -> list[tf.Tensor]:
    """The parts of a batch whose samples all have the same shape."""
    kinds = (tf.experimental.Optional, tf.RaggedTensor, tf.SparseTensor, type(None))
    return [part for part in tf.nest.flatten(batch) if not isinstance(part, kinds)]


def _counted(
    dataset: tf.data.Dataset, counts: tf.Variable, first: list[tf.Tensor]
) -> tf.data.Dataset:
    """The dataset, adding what passes to three counts: batches, samples, and other shapes.

    Args:
        dataset: of batches.
        counts: to add to.
        first: shapes of the samples of a first batch, where another batch may have others.
    """

    def count(batch):
        rows = tf.cast(_rows(batch), "int64")
        shapes = [tf.shape(part, "int64")[1:] for part in _dense(batch)]
        others = [tf.reduce_any(shape != known) for shape, known in zip(shapes, first)]
        other = tf.cast(tf.reduce_any(tf.stack(others)) if others else False, "int64")
        counts.assign_add(tf.stack([tf.constant(1, "int64"), rows, other]))
        return batch

    return _map(dataset, count)


def _once(batch, spec) -> tf.data.Dataset:
    """A dataset of one batch, which it lets go of as it gives it: `from_tensors` would keep it."""
    parts = tf.nest.flatten(batch, expand_composites=True)
    with tf.device("CPU:0"):
        queue = tf.queue.FIFOQueue(1, [part.dtype for part in parts])
        queue.enqueue(parts)

    def give(_):
        given = tf.nest.flatten(queue.dequeue())
        for part, known in zip(given, tf.nest.flatten(spec, expand_composites=True)):
            part.set_shape(known.shape)
        return tf.nest.pack_sequence_as(spec, given, expand_composites=True)

    return tf.data.Dataset.from_tensors(0).map(give)


def _rest(iterator, take: int | None) -> tf.data.Dataset:
    """What is left in an iterator, or the next `take` of it, and not one read more.

    The iterator is an element of the dataset: a function that captured it would keep it, with all
    that it has read ahead, until Python's garbage collector comes by.
    """

    def read(iterator):
        return iterator.get_next_as_optional()

    def is_there(element):
        return element.has_value()

    def value(element):
        return element.get_value()

    turns = tf.data.Dataset.from_tensors(iterator).repeat(take)
    return _without_autotune(turns.map(read).take_while(is_there).map(value))


def _without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """For pipelines that have nothing to tune.

    To delete an iterator whose pipeline is tuned may block for as long as it has lived (TensorFlow
    2.21: `Model::OptimizeLoop` looks whether it is cancelled just before it is).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _without_more_ahead(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Without the tuned prefetch that tf.data puts behind what does not end with one."""
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return dataset.with_options(options)


def _rebatch(dataset: tf.data.Dataset, batch_size: int, joins: bool) -> tf.data.Dataset:
    """`Dataset.rebatch` that lets missing parts (Keras's stand-in for None) pass.

    Args:
        dataset: of batches.
        batch_size: of the new ones.
        joins: whether a new batch may have samples of several old ones.
    """

    def resized(batches: tf.data.Dataset) -> tf.data.Dataset:
        if joins:
            return batches.rebatch(batch_size)
        whole = isinstance(batches.element_spec, tuple)
        return batches.flat_map(
            lambda *parts: tf.data.Dataset.from_tensor_slices(parts if whole else parts[0]).batch(
                batch_size
            )
        )

    spec = dataset.element_spec
    missing = [isinstance(part, tf.OptionalSpec) for part in tf.nest.flatten(spec)]
    if not any(missing):
        return resized(dataset)

    def without(batch):
        parts = tf.nest.flatten(batch)
        return tuple(part for part, gone in zip(parts, missing) if not gone)

    def with_missing(*parts):
        left = iter(parts)
        filled = [tf.experimental.Optional.empty(None) if gone else next(left) for gone in missing]
        return tf.nest.pack_sequence_as(spec, filled)

    return resized(_map(dataset, without)).map(with_missing)


def _map(dataset: tf.data.Dataset, function) -> tf.data.Dataset:
    """`Dataset.map` of a function that takes the whole element, tuple or not."""
    if not isinstance(dataset.element_spec, tuple):
        return dataset.map(function)
    return dataset.map(lambda *element: function(element))


def _rows(batch):
    """How many samples a batch has."""
    parts = (p for p in tf.nest.flatten(batch) if not isinstance(p, tf.experimental.Optional))
    first = next(part for part in parts if part is not None)
    if isinstance(first, tf.RaggedTensor):
        return first.nrows()
    return first.dense_shape[0] if isinstance(first, tf.SparseTensor) else tf.shape(first)[0]
