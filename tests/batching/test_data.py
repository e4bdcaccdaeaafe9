"""Every sample once, whatever the batch size does: real fits on a net that counts its samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from seen import (
    KINDS,
    Endless,
    N,
    Seen,
    arrays,
    cut,
    dataset,
    epochs_of,
    fit,
    make_model,
    options_of,
    repeated,
)


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
