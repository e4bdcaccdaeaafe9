"""Every sample once, whatever the batch size does: real fits on a net that counts its samples."""

import io
import warnings
from contextlib import redirect_stdout

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_once_whatever_the_batch_size_does(kind):
    sizes = [4, 4, 9, 23, 3, 4, 50]
    run = fit(sizes, *KINDS[kind](), **options_of(kind))
    assert run.own == 4
    assert run.times == [[1] * N] * len(sizes)
    assert run.batches == cut([min(size, N) for size in sizes])
    counts = [-(-N // size) for size in sizes]
    assert run.steps == counts
    assert run.ends == [list(range(count)) for count in counts]
    assert run.known == [N] * len(sizes)


@pytest.mark.parametrize("kind", ["arrays", "batched", "generator", "PyDataset, workers"])
def test_the_first_epoch_may_have_another_batch_size(kind):
    run = fit([7, None], *KINDS[kind](), **options_of(kind))
    assert run.times == [[1] * N] * 2
    assert run.batches == cut([7, 7])
    assert run.steps == [4, 4]


@given(
    kind=st.sampled_from(["arrays", "batched", "unknown length", "PyDataset"]),
    sizes=st.lists(st.integers(1, N + 3), min_size=1, max_size=5),
    at_once=st.integers(1, 4),
)
@settings(max_examples=5, deadline=None)
def test_any_sequence_of_batch_sizes(kind, sizes, at_once):
    model = make_model(steps_per_execution=at_once)
    run = fit(sizes, *KINDS[kind](), model=model, **options_of(kind))
    assert run.times == [[1] * N] * len(sizes)
    assert run.batches == cut([min(size, N) for size in sizes])
    assert run.steps == [-(-N // size) for size in sizes]


@pytest.mark.parametrize("kind", ["arrays", "PyDataset", "generator"])
def test_steps_per_execution(kind):
    run = fit(
        [4, 9, 2], *KINDS[kind](), model=make_model(steps_per_execution=4), **options_of(kind)
    )
    assert run.times == [[1] * N] * 3
    assert run.steps == [6, 3, 12]
    if kind == "arrays":
        assert run.ends == [[3, 5], [2], [3, 7, 11]]


@pytest.mark.parametrize(
    ("how", "kind"), [({"run_eagerly": True}, "generator"), ({"jit_compile": True}, "arrays")]
)
def test_eager_and_compiled(how, kind):
    run = fit([4, 9, 5], *KINDS[kind](), model=make_model(**how), **options_of(kind))
    assert run.times == [[1] * N] * 3
    assert run.batches == cut([4, 9, 5])


def test_python_generator_is_read_once():
    x, y = arrays()
    run = fit([7], ((x[i : i + 4], y[i : i + 4]) for i in range(0, N, 4)))
    assert (run.own, run.times, run.batches) == (4, [[1] * N], cut([7]))
    assert (run.steps, run.known) == ([4], [N])


def test_python_generator_that_is_used_up_is_told():
    x, y = arrays()
    generator = ((x[i : i + 4], y[i : i + 4]) for i in range(0, N, 4))
    with pytest.warns(UserWarning, match="ran out of data"):
        fit([4, 4], generator, quiet=False)


def test_generator_without_targets():
    class NoTargets(keras.Model):
        def train_step(self, data):
            x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
            assert y is None and weight is None
            self(x, training=True)
            return {"loss": keras.ops.sum(x)}

    inputs = keras.Input((2,))
    model = NoTargets(inputs, Seen(name="seen")(inputs))
    model.compile("sgd")
    x, _ = arrays()
    run = fit([7], ((x[i : i + 4], None) for i in range(0, N, 4)), model=model)
    assert (run.times, run.batches) == ([[1] * N], cut([7]))


# --- steps_per_epoch ------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("kind", "at_once"),
    [("dataset", 2), ("even dataset", 1), ("generator", 1), ("PyDataset, workers", 1)],
)
def test_repeated_data_no_sample_lost_or_repeated_between_epochs(kind, at_once):
    model = make_model(steps_per_execution=at_once)
    run = fit([4, 10, 10, 3, 4], repeated(kind), model=model, steps_per_epoch=5)
    assert run.own == 4
    assert run.times == epochs_of(N, per_epoch=20, epochs=5)
    assert run.batches == [{4: 5}, {10: 2}, {10: 2}, {3: 6, 2: 1}, {4: 5}]
    assert run.steps == [5, 2, 2, 7, 5]
    assert run.known == [20] * 5


def test_first_epoch_of_repeated_data_at_another_size():
    run = fit([10, 4], repeated("dataset"), steps_per_epoch=5)
    assert run.times == epochs_of(N, per_epoch=20, epochs=2)
    assert run.steps == [2, 5]


@pytest.mark.parametrize("kind", ["arrays in order", "batched in order"])
def test_finite_data_with_steps_per_epoch(kind):
    """Two epochs go through the data: the same samples as in plain fit, in other batches."""
    x, y = arrays()
    if kind == "arrays in order":
        data, options = (x, y), {"batch_size": 4, "shuffle": False}
    else:
        data, options = (tf.data.Dataset.from_tensor_slices((x, y)).batch(4),), {}
    run = fit([4, 10, 5, 4], *data, steps_per_epoch=3, **options)
    first = [1] * 12 + [0] * (N - 12)
    second = [0] * 12 + [1] * (N - 12)
    assert run.times == [first, second, first, second]
    assert run.batches == [{4: 3}, {10: 1, 1: 1}, {5: 2, 2: 1}, {4: 2, 3: 1}]


def test_whole_array_as_steps_per_epoch():
    run = fit([4, 9], *arrays(), batch_size=4, steps_per_epoch=6)
    assert run.times == [[1] * N] * 2
    assert run.batches == cut([4, 9])


@pytest.mark.parametrize("sizes", [[4, 4], [10, 10]])
def test_finite_data_that_really_run_out_are_told(sizes):
    data = dataset("batched")
    with pytest.warns(UserWarning, match="ran out of data"):
        run = fit(sizes, data, steps_per_epoch=4, quiet=False)
    assert sum(run.times[0]) == 16
    assert sum(run.times[1]) == N - 16
    assert np.add(*run.times).tolist() == [1] * N


@pytest.mark.parametrize("data", [lambda: repeated("dataset"), Endless])
def test_infinite_data_need_steps_per_epoch(data):
    model = make_model()
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(ValueError, match="steps_per_epoch"):
        fit([4], data(), model=model)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, model.weights))
    fit([4], *arrays(), model=model)  # the model is still good


# --- weights, structures, validation ----------------------------------------------------------


def weighted_model():
    model = make_model(weighted_metrics=["mae"])
    model.get_layer("out").set_weights([np.zeros((2, 1)), np.zeros(1)])
    return model


def test_sample_weight_stays_with_its_sample():
    x, y = arrays()
    weight = np.linspace(0, 5, N, dtype="float32") ** 2
    run = fit([4, 9, 23], x, y, model=weighted_model(), batch_size=4, sample_weight=weight)
    np.testing.assert_allclose(run.history["mae"], [np.average(y[:, 0], weights=weight)] * 3, 1e-5)


@pytest.mark.parametrize("kind", ["arrays", "dataset", "PyDataset"])
def test_class_weight(kind):
    x, _ = arrays()
    y = (np.arange(N) % 3).astype("float32")[:, None]

    class Data(Batches):
        def __getitem__(self, index):
            x, ids = super().__getitem__(index)
            return x, ids % 3

    data = {
        "arrays": lambda: (x, y),
        "dataset": lambda: (tf.data.Dataset.from_tensor_slices((x, y)).batch(4),),
        "PyDataset": lambda: (Data(4),),
    }[kind]()
    run = fit([4, 9], *data, model=weighted_model(), class_weight={0: 1.0, 1: 5.0, 2: 2.0})
    weight = np.array([1.0, 5.0, 2.0])[np.arange(N) % 3]
    np.testing.assert_allclose(run.history["mae"], [np.average(y[:, 0], weights=weight)] * 2, 1e-5)


def test_class_weight_with_single_samples_and_one_hot_targets():
    x, _ = arrays()
    classes = np.arange(N) % 3
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(3, kernel_initializer="zeros")(Seen(name="seen")(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), "mse", weighted_metrics=["mae"])
    data = tf.data.Dataset.from_tensor_slices((x, np.eye(3, dtype="float32")[classes]))
    run = fit([4, 9], data, model=model, batch_size=4, class_weight={0: 1.0, 1: 5.0, 2: 2.0})
    assert run.times == [[1] * N] * 2
    np.testing.assert_allclose(run.history["mae"], [1 / 3] * 2, 1e-5)


@pytest.mark.parametrize(("kind", "as_dataset"), [("dict", True), ("tuple", False)])
def test_several_inputs_and_outputs(kind, as_dataset):
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    seen = Seen(name="seen")(a)
    both = keras.layers.Concatenate()([seen, b])
    heads = {name: keras.layers.Dense(1, name=name)(both) for name in ("p", "q")}
    inputs, outputs = ({"a": a, "b": b}, heads) if kind == "dict" else ((a, b), [*heads.values()])
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse" if kind == "dict" else ["mse", "mse"])
    x, y = arrays()
    wide = np.ones((N, 3), "float32")
    data = ({"a": x, "b": wide}, {"p": y, "q": y}) if kind == "dict" else ((x, wide), (y, y))
    data = (tf.data.Dataset.from_tensor_slices(data).batch(4),) if as_dataset else data
    run = fit([4, 9, 2], *data, model=model, batch_size=None if as_dataset else 4)
    assert run.times == [[1] * N] * 3
    assert run.batches == cut([4, 9, 2])


def test_ragged_and_sparse_parts():
    x, y = arrays()
    ragged = tf.RaggedTensor.from_row_lengths(np.arange(2.0 * N, dtype="float32"), [2] * N)
    inputs = {
        "a": keras.Input((2,), name="a"),
        "r": keras.Input((None,), name="r", ragged=True),
    }
    total = keras.layers.Lambda(lambda r: tf.reduce_sum(r.to_tensor(), 1, True), (1,))(inputs["r"])
    both = keras.layers.Concatenate()([Seen(name="seen")(inputs["a"]), total])
    model = keras.Model(inputs, keras.layers.Dense(1)(both))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    data = tf.data.Dataset.from_tensor_slices(({"a": x, "r": ragged}, y)).batch(4)
    run = fit([4, 9, 2], data, model=model)
    assert (run.times, run.batches) == ([[1] * N] * 3, cut([4, 9, 2]))


def test_validation_split():
    x, y = arrays()
    run = fit([4, 9], x, y, batch_size=4, validation_split=0.3)
    assert run.times == [[1] * 16 + [0] * 7] * 2
    assert run.batches == [{4: 4}, {9: 1, 7: 1}]
    assert len(run.history["val_loss"]) == 2


class Validated(keras.callbacks.Callback):
    def on_test_begin(self, logs=None):
        self.last = None

    def on_test_batch_end(self, batch, logs=None):
        self.last = batch


@pytest.mark.parametrize("kind", ["arrays", "batched", "unbatched"])
def test_validation_keeps_its_batch_size(kind):
    validated = Validated()
    resize = Resize([4, 9, 23])
    data, options = KINDS[kind](), options_of(kind)
    validation = data if kind == "arrays" else data[0]
    model = make_model()
    history = model.fit(
        *data, **options, epochs=3, verbose=0, validation_data=validation,
        callbacks=[resize, validated],
    )  # fmt: skip
    assert validated.last == 5
    assert len(history.history["val_loss"]) == 3
    assert resize.times == [[1] * N] * 3


# --- like plain fit ---------------------------------------------------------------------------


def losses(kind, sizes, **options):
    """The losses of a training that learns, seeded: they tell any other order of the samples."""
    keras.utils.set_random_seed(3)
    x = np.random.default_rng(0).normal(size=(N, 2)).astype("float32")
    y = x[:, :1] * x[:, 1:]
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    data = {
        "arrays": lambda: (x, y),
        "dataset": lambda: (
            tf.data.Dataset.from_tensor_slices((x, y)).shuffle(N, seed=1).batch(4),
        ),
    }[kind]()
    callbacks = []
    if sizes is not None:

        class Set(keras.callbacks.Callback):
            def on_train_begin(self, logs=None):
                self.data = FitData.attach(self.model)
                self.data.set_batch_size(sizes)

        callbacks = [Set()]
    fitted = model.fit(*data, epochs=4, verbose=0, callbacks=callbacks, **options)
    return fitted.history["loss"]


@pytest.mark.parametrize("shuffle", [True, False, "batch"])
def test_arrays_unresized_are_plain_fit(shuffle):
    options = {"shuffle": shuffle, "batch_size": 4}
    assert losses("arrays", 4, **options) == losses("arrays", None, **options)


def test_arrays_resized_are_plain_fit_at_that_batch_size():
    assert losses("arrays", 9, batch_size=4) == losses("arrays", None, batch_size=9)


@pytest.mark.parametrize("options", [{}, {"steps_per_epoch": 3}])
def test_datasets_unresized_are_plain_fit(options):
    assert losses("dataset", 4, **options) == losses("dataset", None, **options)


# --- the rest of fit --------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "verbose"), [("arrays", 1), ("arrays", 2), ("unknown length", 1)])
def test_progress_bar(kind, verbose):
    shown = io.StringIO()
    with redirect_stdout(shown):
        fit([4, 9, 2], *KINDS[kind](), verbose=verbose, **options_of(kind))
    lines = shown.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "").split("Epoch ")[1:]
    for line, steps in zip(lines, (6, 3, 12), strict=True):
        assert f"{steps}/{steps} " in line.replace("\r", "\n").splitlines()[-1]


def test_stopping_in_an_epoch():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    resize = Resize([4, 9])
    model = make_model()
    for _ in range(2):
        model.fit(*KINDS["batched"](), epochs=3, verbose=0, callbacks=[resize, Stop()])
    assert [sum(times) for times in resize.times] == [8, 8]


@pytest.mark.parametrize("kind", ["arrays", "batched"])
def test_second_fit_and_plain_fit_after_it(kind):
    model = make_model()
    data = KINDS[kind]()
    for _ in range(2):
        run = fit([4, 9], *data, model=model, **options_of(kind))
        assert run.times == [[1] * N] * 2
    seen = model.get_layer("seen")
    seen.times.assign(np.zeros(N))
    model.fit(*data, verbose=0, **options_of(kind))
    assert seen.times.numpy().tolist() == [1] * N


def test_no_new_trace_for_a_new_batch_size():
    traces = []

    class Traced(keras.Model):
        def train_step(self, data):
            traces.append(1)
            return super().train_step(data)

    x = keras.Input((2,))
    model = Traced(x, keras.layers.Dense(1)(Seen(name="seen")(x)))
    model.compile("sgd", "mse")
    fit([4, 9, 23, 1, 5, 8, 2], *arrays(), model=model, batch_size=4)
    assert len(traces) <= 2  # one for a fixed shape, one for a free one


def test_arrays_are_held_once():
    """The pipelines of all batch sizes read the same tensors, and let go of them after fit."""
    x, y = arrays()
    held = []

    class Hold(Resize):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            held.append(self.data._source._adapter._inputs[0])

    resize = Hold([4, 9, 2])
    make_model().fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[resize])
    assert all(tensor is held[0] for tensor in held)
    assert resize.data._source is None


def test_bad_batch_sizes():
    for size in (0, -1):
        with pytest.raises(ValueError, match="positive multiple"):
            fit([size], *arrays())


def test_attach_outside_of_fit():
    with pytest.raises(RuntimeError, match="while its `fit` runs"):
        FitData.attach(make_model())


def test_attach_twice_or_too_late():
    class Late(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            FitData.attach(self.model)

    class Twice(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            FitData.attach(self.model)
            FitData.attach(self.model)

    for callback in (Late(), Twice()):
        with pytest.raises(RuntimeError, match="on_train_begin"):
            make_model().fit(*arrays(), verbose=0, callbacks=[callback])


def test_empty_dataset():
    with pytest.raises(ValueError, match="empty"):
        fit([4], dataset("batched").take(0))
