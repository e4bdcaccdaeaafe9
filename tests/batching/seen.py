"""A network that counts the samples it sees, data of every kind for it, and fits that resize."""

import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.batching.data import FitData

N = 23


class Seen(keras.layers.Layer):
    """Passes its input on and counts how often it has seen each sample; a sample is its index."""

    def build(self, input_shape):
        self.times, self.sizes = self.count(N), self.count(N + 1)

    def count(self, size):
        """Each replica counts on its own; reading adds them up."""
        return tf.Variable(
            tf.zeros(size),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )

    def call(self, x, training=False):
        if training:
            ids = tf.cast(x[:, 0], "int32")
            self.times.assign_add(tf.math.unsorted_segment_sum(tf.ones_like(x[:, 0]), ids, N))
            self.sizes.assign_add(tf.one_hot(tf.shape(x)[0], N + 1))
        return x


class Resize(keras.callbacks.Callback):
    """Sets the batch sizes it is given, None for leaving it, and notes what each epoch was like."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.times, self.batches, self.ends, self.steps, self.known = [], [], [], [], []

    def resize(self, epoch):
        size = self.sizes[epoch] if epoch < len(self.sizes) else None
        if size is not None:
            self.data.set_batch_size(size)

    def on_train_begin(self, logs=None):
        self.data = FitData.attach(self.model)
        self.own = self.data.batch_size
        self.resize(0)

    def on_epoch_begin(self, epoch, logs=None):
        seen = self.model.get_layer("seen")
        seen.times.assign(np.zeros(N))
        seen.sizes.assign(np.zeros(N + 1))
        self.ends.append([])

    def on_train_batch_end(self, batch, logs=None):
        self.ends[-1].append(batch)

    def on_epoch_end(self, epoch, logs=None):
        seen = self.model.get_layer("seen")
        self.times.append(seen.times.numpy().astype(int).tolist())
        sizes = seen.sizes.numpy().astype(int)
        self.batches.append({size: int(times) for size, times in enumerate(sizes) if times})
        self.steps.append(self.params["steps"])
        self.known.append(self.data.num_samples)
        self.resize(epoch + 1)

    def on_train_end(self, logs=None):
        self.data.detach()


def make_model(**options):
    x = keras.Input((2,))
    model = keras.Model(x, keras.layers.Dense(1, name="out")(Seen(name="seen")(x)))
    model.compile(keras.optimizers.SGD(0.0), "mse", **options)
    return model


def arrays():
    x = np.stack([np.arange(N), np.ones(N)], axis=1).astype("float32")
    return x, np.arange(N, dtype="float32")[:, None]


def cut(sizes):
    """How many batches of which size, with N samples."""

    def one(size):
        batches = {size: N // size, N % size: 1}
        return {size: times for size, times in batches.items() if size and times}

    return [one(size) for size in sizes]


def fit(sizes, x, y=None, model=None, quiet=True, **options):
    """A fit with these batch sizes; any warning is an error."""
    model = model or make_model()
    resize = Resize(sizes)
    options = {"epochs": len(sizes), "verbose": 0, "shuffle": False, **options}
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("error", UserWarning)
        resize.history = model.fit(x, y, callbacks=[resize], **options).history
    return resize


class Batches(keras.utils.PyDataset):
    """Shuffles itself at the begin of each epoch, as users' datasets may."""

    def __init__(self, size, weights=False, **options):
        super().__init__(**options)
        self.size, self.order = size, np.arange(N)

    def __len__(self):
        return -(-N // self.size)

    def __getitem__(self, index):
        ids = self.order[index * self.size : (index + 1) * self.size]
        x, y = arrays()
        return x[ids], y[ids]

    def on_epoch_begin(self):
        np.random.shuffle(self.order)


class Endless(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        x, y = arrays()
        ids = np.arange(index * 4, index * 4 + 4) % N
        return x[ids], y[ids]


def dataset(kind):
    x, y = arrays()
    single = tf.data.Dataset.from_tensor_slices((x, y))
    return {
        "batched": lambda: single.shuffle(N).batch(4),
        "unbatched": lambda: single.shuffle(N),
        "unknown length": lambda: single.batch(4).filter(lambda x, y: True),
        "generator": lambda: tf.data.Dataset.from_generator(
            lambda: iter(single.batch(4)), output_signature=single.batch(4).element_spec
        ),
    }[kind]()


KINDS = {
    "arrays": arrays,
    "arrays in order": arrays,
    "tensors": lambda: tuple(map(tf.constant, arrays())),
    **{
        kind: (lambda kind=kind: (dataset(kind), None))
        for kind in ("batched", "unbatched", "unknown length", "generator")
    },
    "PyDataset": lambda: (Batches(4), None),
    "PyDataset, workers": lambda: (Batches(4, workers=2), None),
}


def options_of(kind):
    own = {"batch_size": 4} if kind in ("arrays", "arrays in order", "tensors", "unbatched") else {}
    return {**own, "shuffle": kind == "arrays"}


def epochs_of(total, per_epoch, epochs):
    """How often each sample comes up when `total` samples are repeated, so many each epoch."""
    stream = np.arange(per_epoch * epochs) % total
    return [np.bincount(part, minlength=N).tolist() for part in stream.reshape(epochs, per_epoch)]


def repeated(kind):
    x, y = arrays()
    endless = tf.data.Dataset.from_tensor_slices((x, y)).repeat()

    def generator():
        while True:
            yield from tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(4)

    return {
        "dataset": lambda: endless.batch(4),
        "even dataset": lambda: endless.batch(4, drop_remainder=True),
        "generator": generator,
        "PyDataset, workers": lambda: Endless(workers=2),
    }[kind]()
