"""Each private fact about a running fit, asked of the Keras that is installed."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TFEpochIterator

from keras_dynhp.keras_state import fit as fit_state

X, Y = np.arange(20, dtype="float64")[:, None], np.ones((20, 1), "float32")


class Within(keras.callbacks.Callback):
    """Calls functions from within a fit; their results are in `results`."""

    def __init__(self, begin=None, epoch_end=None, train_end=None):
        super().__init__()
        self.begin, self.epoch_end, self.train_end = begin, epoch_end, train_end
        self.results = []

    def call(self, function):
        if function is not None:
            self.results.append(function(self.model))

    def on_train_begin(self, logs=None):
        self.call(self.begin)

    def on_epoch_end(self, epoch, logs=None):
        self.call(self.epoch_end)

    def on_train_end(self, logs=None):
        self.call(self.train_end)


def make_model(kind=keras.Model):
    x = keras.Input((1,))
    model = kind(x, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse")
    return model


def run(within, *data, model=None, **options):
    model = model or make_model()
    model.fit(*(data or (X, Y)), **{"verbose": 0, **options}, callbacks=[within])
    return within.results


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


def test_running_fit_is_found_from_every_callback_method():
    results = run(Within(*[fit_state.running_fit] * 3), batch_size=5, class_weight={0: 1.0, 1: 2.0})
    assert len(results) == 3
    assert all(result.epoch_iterator is results[0].epoch_iterator for result in results)
    assert isinstance(results[0].epoch_iterator, TFEpochIterator)
    assert isinstance(results[0].callbacks, keras.callbacks.CallbackList)
    arguments = results[0].arguments
    assert arguments["x"] is X
    assert arguments["batch_size"] == 5
    assert arguments["class_weight"] == {0: 1.0, 1: 2.0}
    assert arguments["val_x"] is arguments["validation_steps"] is None
    assert arguments["validation_batch_size"] is None


def test_running_fit_knows_the_validation_data():
    [result] = run(Within(fit_state.running_fit), validation_data=(X, Y))
    assert result.arguments["val_x"] is X


def test_running_fit_is_that_of_the_model_asked_for():
    """Also from a fit inside a fit, and where a subclass has its own `fit`."""

    class Own(keras.Model):
        def fit(self, *args, **kwargs):
            return super().fit(*args, **kwargs)

    outer, inner = make_model(Own), make_model()
    found = []

    def ask(model):
        found.append([fit_state.running_fit(outer), fit_state.running_fit(inner)])

    run(Within(lambda model: run(Within(ask), model=inner)), model=outer)
    [(of_outer, of_inner)] = found
    assert of_outer.epoch_iterator is not of_inner.epoch_iterator
    with pytest.raises(RuntimeError, match="while its `fit` runs"):
        fit_state.running_fit(outer)


def test_epochs_taken_over_and_given_back():
    seen = []

    def take(model):
        fit = fit_state.running_fit(model)
        iterator = fit.epoch_iterator
        assert not fit_state.has_begun(iterator)

        def epoch():
            batches = iter(dataset())
            for step in range(2):
                seen.append(step)
                yield step, step, batches

        fit_state.take_over_epochs(iterator, epoch, lambda: seen.append("ended"))
        assert fit_state.has_begun(iterator)

    def give_back(model):
        fit_state.give_back_epochs(fit_state.running_fit(model).epoch_iterator)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(Within(take), epochs=2)
        assert seen == [0, 1, 0, 1]
        seen.clear()
        run(Within(take, epoch_end=give_back), epochs=3)
        assert seen == [0, 1]


def test_data_that_end_in_a_step_are_reported_instead_of_the_warning():
    seen = []

    def take(model):
        def epoch():
            batches, step = iter(dataset()), 0
            while True:
                yield step, step, batches
                step += 1

        iterator = fit_state.running_fit(model).epoch_iterator
        fit_state.take_over_epochs(iterator, epoch, lambda: seen.append("ended"))

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run(Within(take), epochs=2)
    assert seen == ["ended", "ended"]


def test_begun_once_an_epoch_has_been_read():
    def begun(model):
        return fit_state.has_begun(fit_state.running_fit(model).epoch_iterator)

    assert run(Within(begun, epoch_end=begun)) == [False, True]


def test_out_of_data_warning_is_keras_own():
    def warn(model):
        fit_state.out_of_data_warning(fit_state.running_fit(model).epoch_iterator)

    with pytest.warns(UserWarning, match="ran out of data"):
        run(Within(warn))


def kinds():
    class Data(keras.utils.PyDataset):
        def __getitem__(self, index):
            return X[:3], Y[:3]

        def __len__(self):
            return 2

    class Endless(Data):
        @property
        def num_batches(self):
            return None

    return {
        "arrays": (X, Y),
        "dataset": (dataset(),),
        "endless dataset": (dataset().repeat(),),
        "PyDataset": (Data(),),
        "endless PyDataset": (Endless(),),
        "generator": ((pair for pair in [(X[:3], Y[:3])] * 4),),
    }


@pytest.mark.parametrize("kind", kinds())
def test_what_is_known_of_each_kind_of_data(kind):
    def ask(model):
        adapter = fit_state.running_fit(model).epoch_iterator.data_adapter
        first = fit_state.first_batch(adapter)
        return (
            fit_state.is_array_adapter(adapter),
            fit_state.is_generator_adapter(adapter),
            bool(fit_state.is_endless(adapter)),
            None if first is None else first[0].shape,
        )

    [known] = run(Within(ask), *kinds()[kind], shuffle=False, steps_per_epoch=1)
    first = (3, 1) if kind in ("PyDataset", "endless PyDataset", "generator") else None
    assert known == (kind == "arrays", kind == "generator", kind.startswith("endless"), first)


def test_what_reads_ahead_is_known_by_its_last_transformation():
    plain = tf.data.Dataset.range(8)

    def same(x):
        return x

    ahead = [
        plain.prefetch(1),
        plain.map(same, num_parallel_calls=2),
        plain.batch(2, num_parallel_calls=2),
        plain.interleave(tf.data.Dataset.from_tensors, num_parallel_calls=2),
    ]
    for dataset in ahead:
        counted = dataset.apply(tf.data.experimental.assert_cardinality(8))
        for given in (dataset, counted, counted.with_options(tf.data.Options())):
            assert fit_state.reads_ahead(given), given
        for last in (dataset.map(same), dataset.batch(2), dataset.take(3), dataset.repeat()):
            assert not fit_state.reads_ahead(last), last
    assert not fit_state.reads_ahead(plain)


def test_first_batch_of_a_generator_is_not_lost():
    seen = []

    class Noting(keras.Model):
        def train_step(self, data):
            tf.py_function(lambda x: seen.append(float(x[0, 0])), [data[0]], [])
            return super().train_step(data)

    def first(model):
        adapter = fit_state.running_fit(model).epoch_iterator.data_adapter
        return fit_state.first_batch(adapter)

    generator = ((X[i : i + 4], Y[i : i + 4]) for i in range(0, 20, 4))
    run(Within(first), generator, model=make_model(Noting), shuffle=False, steps_per_epoch=5)
    assert seen == [0.0, 4.0, 8.0, 12.0, 16.0]


def test_arrays_are_held_once_and_given_back():
    def hold(model):
        iterator = fit_state.running_fit(model).epoch_iterator
        adapter = iterator.data_adapter
        own = adapter._inputs
        give_back = fit_state.hold_arrays_as_tensors(iterator)
        assert fit_state.num_array_samples(adapter) == 20
        x, y = adapter._inputs
        assert isinstance(x, tf.Tensor) and isinstance(y, tf.Tensor)
        assert x.dtype == keras.config.floatx()
        fit_state.resize_arrays(adapter, 7)
        batches = [len(batch) for batch, _ in adapter.get_tf_dataset()]
        assert (batches, adapter.num_batches, adapter.batch_size) == ([7, 7, 6], 3, 7)
        give_back()
        assert adapter._inputs is own
        return adapter.num_batches, adapter.batch_size

    assert run(Within(hold), batch_size=5) == [(4, 5)]


def test_sparse_arrays_can_be_held():
    sparse = tf.sparse.from_dense(np.eye(20, dtype="float32"))
    model = keras.Sequential([keras.Input((20,), sparse=True), keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    def hold(model):
        iterator = fit_state.running_fit(model).epoch_iterator
        fit_state.hold_arrays_as_tensors(iterator)
        fit_state.resize_arrays(iterator.data_adapter, 7)
        return [batch.shape[0] for batch, _ in iterator.data_adapter.get_tf_dataset()]

    assert run(Within(hold), sparse, Y, model=model) == [[7, 7, 6]]


def test_distribution_of_a_dataset():
    def ask(model):
        iterator = fit_state.running_fit(model).epoch_iterator
        data = dataset()
        return fit_state.distribute(iterator, data) is data, fit_state.num_replicas(iterator)

    assert run(Within(ask)) == [(True, 1)]


def test_single_samples_are_batched():
    samples = dataset().unbatch()

    def batch(model):
        fit = fit_state.running_fit(model)
        fit_state.batch_unbatched(fit, 6)
        fit_state.batch_unbatched_validation(model, fit, 8)

    class Count(keras.callbacks.Callback):
        train = test = 0

        def on_train_batch_end(self, batch, logs=None):
            self.train += 1

        def on_test_batch_end(self, batch, logs=None):
            self.test += 1

    count = Count()
    make_model().fit(
        samples, validation_data=samples, verbose=0, callbacks=[Within(batch), count]
    )  # fmt: skip
    assert (count.train, count.test) == (4, 3)


def test_steps_reach_every_callback_and_the_progress_bar():
    class Other(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert self.params["steps"] == 77

    bar = keras.callbacks.ProgbarLogger()

    def tell(model):
        callbacks = fit_state.running_fit(model).callbacks
        assert bar.target == bar.progbar.target == 1
        fit_state.set_steps(callbacks, 77)
        assert bar.target == 1
        fit_state.set_progress_target(callbacks, 77)
        assert bar.target == bar.progbar.target == 77

    make_model().fit(X, Y, verbose=2, callbacks=[Within(epoch_end=tell), Other(), bar])


REPLAYED = {
    "arrays": lambda: (X, Y),
    "shuffled dataset": lambda: (
        tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(20, seed=3).batch(4),
    ),
    "unseeded dataset": lambda: (tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(20).batch(4),),
    "generator": lambda: ((pair for pair in [(X[i : i + 4], Y[:4]) for i in range(16)] * 9),),
    "PyDataset": lambda: (Cycling(),),
}


class Cycling(keras.utils.PyDataset):
    """Gives other batches after each epoch."""

    epoch = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        start = (3 * self.epoch + index) % 16
        return X[start : start + 4], Y[:4]

    def on_epoch_end(self):
        self.epoch += 1


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("kind", REPLAYED)
def test_replayed_data_are_where_they_would_be(kind, at_once):
    """The third epoch of a fit has the samples that it has after two replayed ones."""

    def third_epoch(replay):
        keras.utils.set_random_seed(0)
        seen = []

        class Noting(keras.Model):
            def train_step(self, data):
                tf.py_function(lambda x: seen.append(x.numpy().ravel().tolist()), [data[0]], [])
                return super().train_step(data)

        model = make_model(Noting)
        model.compile("sgd", "mse", steps_per_execution=at_once)
        clear = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.clear())
        begin = Within((lambda model: fit_state.replay_data(model, 2)) if replay else None)
        steps = 3 if kind == "generator" else None
        model.fit(
            *REPLAYED[kind](),
            epochs=1 if replay else 3,
            steps_per_epoch=steps,
            batch_size=None if kind != "arrays" else 4,
            shuffle=kind == "arrays",
            verbose=0,
            callbacks=[begin, clear],
        )
        return seen

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        plain, replayed = third_epoch(False), third_epoch(True)
    assert replayed == plain and len(plain) >= 3
