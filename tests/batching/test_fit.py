"""What else `fit` is given goes with its samples when the batch size changes."""

import io
from contextlib import redirect_stdout

import keras
import numpy as np
import pytest
import tensorflow as tf
from seen import KINDS, Batches, N, Resize, Seen, arrays, cut, dataset, fit, make_model, options_of

from keras_dynhp import DynHP
from keras_dynhp.batching.data import FitData

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


class Limited(Resize):
    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.data.limits_validation = True
        self.validation = []

    def on_test_begin(self, logs=None):
        self.validation.append(0)

    def on_test_batch_end(self, batch, logs=None):
        self.validation[-1] += 1


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [2, 5, 12, 2]),  # never larger than Keras's own, which comes back
        ({"validation_batch_size": 23}, [1, 1, 1, 1]),
        ({"validation_steps": 1}, [1, 1, 1, 1]),
    ],
)
def test_validation_that_is_limited_follows_smaller_batches(options, steps):
    x, y = arrays()
    limited = Limited([12, 5, 2, 23])
    model = make_model()
    history = model.fit(
        x, y, batch_size=12, epochs=4, verbose=0, validation_data=(x, y, y[:, 0] + 3.0),
        callbacks=[limited], **options,
    )  # fmt: skip
    assert limited.validation == steps
    if not options:
        last = model.evaluate(x, y, sample_weight=y[:, 0] + 3.0, verbose=0, return_dict=True)
        assert history.history["val_loss"][-1] == pytest.approx(last["loss"], rel=1e-5)
    assert not hasattr(model, "_eval_epoch_iterator")


def test_a_budget_that_shrinks_the_batch_shrinks_that_of_validation():
    x = np.ones((600, 512), "float32")
    model = keras.Sequential([keras.Input((512,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    hp, validated = DynHP("2MB", batch_size="fixed"), Validated()
    history = model.fit(
        x, x[:, :1], batch_size=600, verbose=0, validation_data=(x, x[:, :1]),
        callbacks=[hp, validated],
    )  # fmt: skip
    (batch_size,) = history.history["batch_size"]
    assert batch_size < 300
    assert validated.last + 1 == -(-600 // batch_size)


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
