"""The whole protocol in one process."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

import keras_dynhp as dynhp
from keras_dynhp.federated import DynHPClient, DynHPStrategy

TARGET = dynhp.Target(compression=2)


def nan(content):
    values = content["weights"]["0"].numpy().copy()
    values[0, 0] = np.nan
    content["weights"]["0"] = Array(values)


def wrong_shape(content):
    content["weights"]["0"] = Array(np.zeros((2, 2), "float32"))


def false_header(content):
    array = content["weights"]["0"]
    data = array.data.replace(b"'shape': (8, ", b"'shape': (9, ")
    content["weights"]["0"] = Array(array.dtype, array.shape, array.stype, data)


def objects(content):
    import io

    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)
    content["weights"]["0"] = Array("object", (1,), "numpy.ndarray", stream.getvalue())


def one_too_few(content):
    del content["weights"]["0"]


def other_version(content):
    content["plan"]["version"] = "0.0.1"


def other_plan(content):
    content["plan"]["id"] = "0" * 32


def no_examples(content):
    content["counts"]["examples"] = 0


def negative_scores(content):
    content["scores"] = ArrayRecord(
        {"scores": Array(-np.ones(content["scores"]["scores"].shape, "float32"))}
    )


def no_counts(content):
    content["counts"] = ConfigRecord({"examples": 3})


SPOILED = {
    nan: "aren't finite",
    wrong_shape: "must have shape",
    false_header: "must have shape",
    objects: "must have shape",
    one_too_few: "6 variables are expected",
    other_version: "another version",
    other_plan: "another plan",
    no_examples: "positive integer",
    negative_scores: "negative",
    no_counts: "no MetricRecord 'counts'",
}


def test_a_run_prunes_to_the_target_and_learns(federation):
    model = federation.build_model()
    before = federation.accuracy(model)
    strategy = DynHPStrategy(model, TARGET, rounds=5)
    nodes = [federation.Node(seed, 100 * seed, epochs=8) for seed in (1, 2)]
    result = strategy.start(
        federation.LocalGrid(nodes), evaluate=lambda m: {"accuracy": federation.accuracy(m)}
    )
    assert strategy.on_target and strategy.model is model
    assert model.count_params() <= 207 / 2
    assert strategy.history[-1]["accuracy"] > max(0.8, before)
    assert [entry["clients"] for entry in strategy.history] == [2] * 5
    down = [entry["bytes_down"] for entry in strategy.history]
    assert down == sorted(down, reverse=True) and down[-1] < 0.8 * down[0]
    assert [a.shape for a in result.arrays.values()] == [w.shape for w in model.get_weights()]
    assert all(node.calls == ["query"] + ["train"] * 5 for node in nodes)


def test_one_client_is_ordinary_training_of_the_same_network(federation):
    """An average of one, and nothing else: the weights are those of a plain fit."""
    model, node = federation.build_model(), federation.Node(1)
    DynHPStrategy(model, TARGET, rounds=1, schedule=lambda p: 0.0).start(
        federation.LocalGrid([node])
    )
    from keras_dynhp.federated.client import Batches

    alone = federation.build_model()
    alone.fit(Batches(*node.client.data, 32, seed=1), verbose=0)
    for ours, plain in zip(model.get_weights(), alone.get_weights()):
        np.testing.assert_allclose(ours, plain, atol=1e-6)


def test_callbacks_see_one_training_over_all_rounds(federation):
    epochs, rates = [], []

    class Seen(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            epochs.append(epoch)
            rates.append(float(self.model.optimizer.learning_rate.numpy()))

    falling = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    node = federation.Node(1, epochs=2, callbacks=[falling, Seen()])
    DynHPStrategy(federation.build_model(), TARGET, 3).start(federation.LocalGrid([node]))
    assert epochs == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(rates, [0.01 / 2**n for n in range(1, 7)], rtol=1e-5)


def test_dropout_grows_weaker_with_the_network(federation):
    """What the clients' training steps drop, seen behind the layer."""
    zeros, dropped = keras.metrics.Mean(), []

    class Watch(keras.layers.Layer):
        def call(self, x, training=False):
            if training:
                zeros.update_state(keras.ops.cast(x == 0.0, "float32"))
            return x

    dynhp.register_rule(Watch)(lambda call: call.inputs[0])

    def build():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(400, "sigmoid"), keras.layers.Dropout(0.5), Watch()]
        model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    note = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: zeros.reset_state(),
        on_epoch_end=lambda *_: dropped.append(float(zeros.result())),
    )
    node = federation.Node(1, build=build, callbacks=[note])
    model = build()
    strategy = DynHPStrategy(model, dynhp.Target(compression=4), rounds=4)
    strategy.start(federation.LocalGrid([node]))
    assert model.layers[0].units < 110
    assert dropped[0] == pytest.approx(0.5, abs=0.02)
    assert dropped[-1] == pytest.approx(0.5 * model.layers[0].units / 400, abs=0.02)


def test_clients_keep_out_of_the_kernel_that_crashes(federation):
    """Their training steps pick what a strided convolution of size 1 reads, and then convolve."""
    steps = []

    class Note(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            step = tf.function(lambda x: self.model(x, training=True), autograph=False)
            graph = step.get_concrete_function(tf.zeros((2, 8))).graph
            steps.append({operation.type for operation in graph.get_operations()})

    def build():
        layers = [keras.layers.Reshape((4, 2)), keras.layers.Conv1D(6, 1, strides=2)]
        layers += [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((8,)), *layers])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    node = federation.Node(1, build=build, callbacks=[Note()])
    strategy = DynHPStrategy(build(), dynhp.Target(compression=1.2), rounds=2)
    strategy.start(federation.LocalGrid([node]))
    assert len(steps) == 2 and all("StridedSlice" in step for step in steps)


@pytest.mark.parametrize(
    ("callback", "error"), [(dynhp.DynHP(), ValueError), (lambda epoch: 0.1, TypeError)]
)
def test_callbacks_that_make_no_sense(federation, callback, error):
    with pytest.raises(error, match="callbacks"):
        federation.Node(1, callbacks=[callback])


def test_what_is_unsound_is_refused_with_a_reason(federation, caplog):
    """The result is that of a round of the sound client alone."""
    logging.getLogger("flwr").addHandler(caplog.handler)
    weights = []
    for spoils in (SPOILED, ()):
        model = federation.build_model()
        nodes = [federation.Node(1), *(federation.Node(2, 32, spoil=spoil) for spoil in spoils)]
        strategy = DynHPStrategy(model, TARGET, rounds=1)
        strategy.start(federation.LocalGrid(nodes))
        weights.append(model.get_weights())
        refused = strategy.history[0]["refused"]
        assert list(refused) == [str(2 + i) for i in range(len(spoils))]
        for (node, reason), spoil in zip(refused.items(), spoils):
            assert SPOILED[spoil] in reason, spoil.__name__
            assert f"node {node}: {reason}" in caplog.text
    logging.getLogger("flwr").removeHandler(caplog.handler)
    for with_them, without in zip(*weights):
        np.testing.assert_array_equal(with_them, without)


def test_a_client_that_fails_and_one_that_joins_late(federation):
    model = federation.build_model()
    grid = federation.LocalGrid([federation.Node(1), federation.Node(2)])
    late = federation.Node(3)

    def evaluate(_):
        done = len(strategy.history)
        grid.nodes[2].fails = done == 1  # in the second round
        if done == 2:
            grid.nodes[3] = late
        return {}

    strategy = DynHPStrategy(model, TARGET, rounds=4)
    strategy.start(grid, evaluate=evaluate)
    assert [entry["clients"] for entry in strategy.history] == [2, 1, 3, 3]
    assert "flames" in strategy.history[1]["refused"]["2"]
    assert late.calls == ["query", "train", "train"]


def test_a_server_that_is_killed_goes_on_from_its_last_round(federation, tmp_path):
    class Killed(Exception):
        pass

    def run(model, state, kill_after=None):
        strategy = DynHPStrategy(model, TARGET, rounds=4, state=state)

        def evaluate(_):
            if len(strategy.history) == kill_after:
                raise Killed
            return {}

        strategy.start(
            federation.LocalGrid([federation.Node(1), federation.Node(2)]), evaluate=evaluate
        )
        return strategy

    state = tmp_path / "state.npz"
    with pytest.raises(Killed):
        run(federation.build_model(), state, kill_after=3)  # the third round isn't on disk
    model = federation.build_model()
    resumed = DynHPStrategy(model, TARGET, rounds=4, state=state)
    assert len(resumed.history) == 2
    assert sum(resumed.history[-1]["widths"]) == sum(
        group.size for group in dynhp.find_groups(model)
    )
    resumed = run(federation.build_model(), state)
    assert [entry["round"] for entry in resumed.history] == [1, 2, 3, 4]
    assert resumed.on_target

    with pytest.raises(ValueError, match="run of 4 rounds"):
        DynHPStrategy(federation.build_model(), TARGET, rounds=5, state=state)
    with pytest.raises(ValueError, match="another network"):
        DynHPStrategy(federation.build_model(4), TARGET, rounds=4, state=state)


def test_clients_that_can_not_take_part_are_refused_before_they_train(federation):
    nodes = [
        federation.Node(1),
        federation.Node(2, build=lambda: federation.build_model(4)),
        federation.Node(3, count=0),
        federation.Node(4),
    ]
    x, _ = nodes[3].client.data
    nodes[3].client = DynHPClient(federation.build_model, (x, np.full(len(x), 3)))
    strategy = DynHPStrategy(federation.build_model(), TARGET, rounds=1)
    strategy.start(federation.LocalGrid(nodes))
    reasons = {node: str(error) for node, error in strategy._roster.refused.items()}
    assert set(reasons) == {2, 3, 4}
    assert "variable 4: (6, 3)" in reasons[2] and "(6, 4)" in reasons[2]
    assert "no examples" in reasons[3]
    assert "3 classes" in reasons[4]
    assert [node.calls for node in nodes[1:]] == [["query"]] * 3


def test_a_budget_that_no_client_can_meet(federation):
    nodes = [federation.Node(1, budget="1KB"), federation.Node(2, budget="2KB")]
    strategy = DynHPStrategy(federation.build_model(), TARGET, rounds=1)
    with pytest.raises(dynhp.BudgetError, match="No client's budget") as raised:
        strategy.start(federation.LocalGrid(nodes))
    assert raised.value.given == 2048 < raised.value.needed
    assert not strategy.history


def test_criteria_without_gradients(federation):
    strategy = DynHPStrategy(federation.build_model(), TARGET, 3, "magnitude", "constant")
    strategy.start(federation.LocalGrid([federation.Node(1)]))
    assert strategy.on_target


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"target": 10}, TypeError),
        ({"rounds": 0}, ValueError),
        ({"clients": True}, ValueError),
        ({"criterion": "size"}, ValueError),
        ({"target": dynhp.Target(params=3)}, ValueError),
    ],
)
def test_bad_arguments(federation, arguments, error):
    with pytest.raises(error):
        DynHPStrategy(federation.build_model(), **arguments)


def test_only_weights_counts_and_scores_leave_a_client(federation):
    seen = []
    node = federation.Node(1, spoil=seen.append)
    DynHPStrategy(federation.build_model(), TARGET, rounds=1).start(federation.LocalGrid([node]))
    (content,) = seen
    assert set(content) == {"plan", "counts", "weights", "scores"}
    assert isinstance(content["counts"], MetricRecord)
    assert set(content["counts"]) == {"examples", "widths", "batch-size", "peak-bytes"}
    assert set(content["plan"]) == {"id", "version", "protocol"}
    arrays = [*content["weights"].values(), *content["scores"].values()]
    assert {array.stype for array in arrays} == {"numpy.ndarray"}
    assert sum(np.prod(array.shape) for array in arrays) == 207 + 18


def test_the_model_must_be_compiled(federation):
    build = federation.build_model
    node = federation.Node(1, build=lambda: keras.Sequential.from_config(build().get_config()))
    strategy = DynHPStrategy(federation.build_model(), TARGET, rounds=1)
    with pytest.raises(ValueError, match="compiled"):
        strategy.start(federation.LocalGrid([node]))
