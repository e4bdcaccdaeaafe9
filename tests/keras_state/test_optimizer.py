"""The update hook, and the facts about optimizers it stands on."""

from __future__ import annotations

import copy
import inspect
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from keras_dynhp.keras_state.optimizer import (
    built_on,
    hook_update_step,
    move_weight_decay_exclusions,
    optimizer_tree,
    variable_key,
)

LEARNING_RATE = 0.1


def small_model() -> keras.Sequential:
    initializer = keras.initializers.GlorotUniform
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4, "tanh", kernel_initializer=initializer(1)),
            keras.layers.Dense(3, kernel_initializer=initializer(2)),
        ]
    )


def data(samples: int = 16):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(samples, width)).astype("float32") for width in (5, 3)]


def gradients_of(model, x, y) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(keras.ops.square(model(x) - y))
    return [g.numpy() for g in tape.gradient(loss, model.trainable_variables)]


def taylor_by_hand(shape_gradients, accumulate: int = 1) -> list[float]:
    """The sum over updates of weight times gradient, one number a variable, with NumPy's SGD."""
    model, (x, y) = small_model(), data()
    sums, held = np.zeros(4), []
    for start in range(0, 16, 4):
        held.append(gradients_of(model, x[start : start + 4], y[start : start + 4]))
        if len(held) < accumulate:
            continue
        gradients = shape_gradients([np.mean(g, axis=0) for g in zip(*held)])
        held = []
        for i, (variable, gradient) in enumerate(zip(model.variables, gradients)):
            sums[i] += np.sum(variable.numpy() * gradient)
            variable.assign(variable - LEARNING_RATE * gradient)
    return sums


class Recorder:
    """Adds weight times gradient into one variable for each model variable, inside the graph."""

    def __init__(self, model, optimizer):
        self.sums, self.optimizer = {}, optimizer
        for variable in model.trainable_variables:
            self.sums[variable_key(optimizer, variable)] = keras.Variable(0.0, trainable=False)

    def before(self, gradient, variable):
        total = self.sums[variable_key(self.optimizer, variable)]
        total.assign(total + tf.reduce_sum(variable * tf.convert_to_tensor(gradient)))

    def values(self):
        return [float(total.numpy()) for total in self.sums.values()]


def norm(arrays):
    return np.sqrt(sum(np.sum(np.square(a)) for a in arrays))


SETTINGS = {
    "plain": (lambda: optimizers.SGD(LEARNING_RATE), lambda gs: gs, 1),
    "unscaled": (
        lambda: optimizers.LossScaleOptimizer(optimizers.SGD(LEARNING_RATE), initial_scale=64.0),
        lambda gs: gs,
        1,
    ),
    "clipped_by_norm": (
        lambda: optimizers.SGD(LEARNING_RATE, clipnorm=0.05),
        lambda gs: [g * min(1.0, 0.05 / norm([g])) for g in gs],
        1,
    ),
    "clipped_by_global_norm": (
        lambda: optimizers.SGD(LEARNING_RATE, global_clipnorm=0.05),
        lambda gs: [g * min(1.0, 0.05 / norm(gs)) for g in gs],
        1,
    ),
    "clipped_by_value": (
        lambda: optimizers.SGD(LEARNING_RATE, clipvalue=0.01),
        lambda gs: [np.clip(g, -0.01, 0.01) for g in gs],
        1,
    ),
    "accumulated": (
        lambda: optimizers.SGD(LEARNING_RATE, gradient_accumulation_steps=2),
        lambda gs: gs,
        2,
    ),
}


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("make", "shaped", "accumulate"), SETTINGS.values(), ids=SETTINGS)
def test_the_hook_sees_weights_and_gradients_as_a_by_hand_calculation(
    make, shaped, accumulate, jit_compile
):
    model, optimizer, (x, y) = small_model(), make(), data()
    recorder = Recorder(model, optimizer)
    unhook = hook_update_step(optimizer, before=recorder.before)
    model.compile(optimizer, loss="mse", jit_compile=jit_compile)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    unhook()
    expected = taylor_by_hand(shaped, accumulate)
    assert np.min(np.abs(expected[[0, 2]])) > 1e-3
    np.testing.assert_allclose(recorder.values(), expected, rtol=1e-4, atol=1e-7)


# Keras 3.12's Muon takes no step with TensorFlow at all.
BROKEN = {"Muon"} if keras.__version__.startswith("3.12.") else set()
LEAVES = {
    name: thing
    for name, thing in vars(optimizers).items()
    if inspect.isclass(thing)
    and name not in {"Optimizer", "OptimizerMap", "LossScaleOptimizer", "MultiOptimizer", *BROKEN}
}


@pytest.mark.parametrize("optimizer_class", LEAVES.values(), ids=LEAVES)
def test_every_optimizer_of_keras_updates_each_variable_once_through_the_hook(optimizer_class):
    variables = [keras.Variable(np.ones((3, 2), "float32")), keras.Variable([1.0, 1.0])]
    optimizer, seen = optimizer_class(0.5), []
    keys = [variable_key(optimizer, variable) for variable in variables]

    def note(when, variable):
        seen.append((when, keys.index(variable_key(optimizer, variable)), variable.numpy()))

    hook_update_step(optimizer, lambda g, v: note("before", v), lambda v: note("after", v))
    optimizer.apply([keras.ops.full((3, 2), 0.5), keras.ops.array([0.5, 1.0])], variables)
    places = [("before", 0), ("after", 0), ("before", 1), ("after", 1)]
    assert [(when, which) for when, which, _ in seen] == places
    for (_, which, value), (_, _, updated) in [seen[:2], seen[2:]]:
        assert np.all(value != updated)
        np.testing.assert_array_equal(updated, variables[which].numpy())


HAS_MULTI = hasattr(optimizers, "MultiOptimizer")  # since Keras 3.15


def multi():
    return optimizers.MultiOptimizer(
        lambda variable: optimizers.Adam() if "kernel" in variable.path else optimizers.SGD()
    )


@pytest.mark.skipif(not HAS_MULTI, reason="this Keras has no MultiOptimizer")
def test_inner_optimizers_are_hooked_once_each():
    model, (x, y) = small_model(), data()
    optimizer = multi()
    with pytest.raises(ValueError, match=r"only known once it is built.*optimizer.build"):
        hook_update_step(optimizer, before=print)
    optimizer.build(model.trainable_variables)
    assert len(optimizer_tree(optimizer)) == 5
    seen = []
    unhook = hook_update_step(optimizer, lambda g, v: seen.append(variable_key(optimizer, v)))
    optimizer.apply(gradients_of(model, x, y), model.trainable_variables)
    assert seen == [variable_key(optimizer, v) for v in model.trainable_variables]
    unhook()
    optimizer.apply(gradients_of(model, x, y), model.trainable_variables)
    assert len(seen) == 4


class Slower(optimizers.Optimizer):
    """A user's wrapper, which lets an inner optimizer update and then does something of its own."""

    def __init__(self):
        super().__init__(0.1)
        self.inner = optimizers.SGD(0.1)

    def build(self, variables):
        super().build(variables)
        self.inner.build(variables)

    def update_step(self, gradient, variable, learning_rate):
        before = keras.ops.copy(variable)
        self.inner.update_step(gradient, variable, learning_rate)
        self.assign(variable, 0.5 * (before + variable))


def test_under_a_wrapper_of_a_user_each_variable_is_seen_once():
    optimizer, variable, seen = Slower(), keras.Variable([1.0]), []
    hook_update_step(optimizer, lambda gradient, variable: seen.append(float(gradient[0])))
    optimizer.apply([keras.ops.array([2.0])], [variable])
    assert seen == [2.0]
    np.testing.assert_allclose(variable.numpy(), [0.9])


def operations_of_a_step(optimizer) -> int:
    model, (x, y) = small_model(), data()
    optimizer.build(model.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(model(x) - y))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    graph = step.get_concrete_function().graph
    inner = [
        len(f.graph.get_operations()) for f in graph._functions.values() if hasattr(f, "graph")
    ]
    return len(graph.get_operations()) + sum(inner)


def test_an_absent_hook_costs_nothing():
    never = operations_of_a_step(optimizers.Adam())
    optimizer = optimizers.Adam()
    hook_update_step(optimizer, before=lambda gradient, variable: tf.reduce_sum(gradient))()
    assert "update_step" not in vars(optimizer)
    assert operations_of_a_step(optimizer) == never
    optimizer = optimizers.Adam()
    hook_update_step(optimizer, before=lambda gradient, variable: tf.reduce_sum(gradient))
    assert operations_of_a_step(optimizer) > never


def test_hooks_come_and_go_in_any_order():
    optimizer, seen, variable = optimizers.SGD(0.1), [], keras.Variable([1.0])
    own = optimizer.update_step
    vars(optimizer)["update_step"] = lambda *step: (seen.append("own"), own(*step))
    patched = optimizer.update_step
    first = hook_update_step(optimizer, lambda g, v: seen.append("1"), lambda v: seen.append("1'"))
    second = hook_update_step(optimizer, lambda g, v: seen.append("2"))

    def step():
        seen.clear()
        optimizer.apply([keras.ops.array([1.0])], [variable])
        return " ".join(seen)

    assert step() == "1 2 own 1'"
    first()
    first()  # twice does no harm
    assert step() == "2 own"
    third = hook_update_step(optimizer, after=lambda v: seen.append("3'"))
    second()
    assert step() == "own 3'"
    third()
    assert step() == "own" and vars(optimizer)["update_step"] is patched


def test_copies_and_files_know_nothing_of_a_hook(tmp_path):
    model, (x, y) = small_model(), data()
    optimizer = optimizers.Adam(0.25)
    config = optimizer.get_config()
    model.compile(optimizer, loss="mse")
    seen = []
    hook_update_step(optimizer, lambda gradient, variable: seen.append(variable.name))
    model.fit(x, y, batch_size=8, verbose=0)
    assert optimizer.get_config().keys() == config.keys()
    model.save(tmp_path / "model.keras")
    others = [
        copy.deepcopy(optimizer),
        pickle.loads(pickle.dumps(optimizer)),
        optimizers.deserialize(optimizers.serialize(optimizer)),
        copy.deepcopy(model).optimizer,
        keras.saving.load_model(tmp_path / "model.keras").optimizer,
    ]
    seen.clear()
    for other in others:
        assert other is not optimizer and "update_step" not in vars(other)
        assert float(other.learning_rate) == 0.25
    assert seen == []


def test_gradients_of_embeddings_arrive_as_they_are():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Embedding(6, 3)])
    optimizer, seen = optimizers.SGD(0.1), []
    hook_update_step(optimizer, lambda gradient, variable: seen.append(gradient))
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(model(np.array([[1, 4]])))
    optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    assert isinstance(seen[0], tf.IndexedSlices)
    assert seen[0].indices.numpy().tolist() == [1, 4]


MIRRORED = """
import json, keras, numpy as np, tensorflow as tf
from keras_dynhp.keras_state.optimizer import hook_update_step, variable_key
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
x, y = [np.random.default_rng(0).normal(size=(16, w)).astype("float32") for w in (5, 3)]
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = keras.Sequential([
        keras.Input((5,)), keras.layers.Dense(3, kernel_initializer=keras.initializers.Ones())])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0)
    keys = [variable_key(optimizer, v) for v in model.trainable_variables]
    sums = {key: keras.Variable(0.0, trainable=False) for key in keys}
    def before(gradient, variable):
        total = sums[variable_key(optimizer, variable)]
        total.assign(total + tf.reduce_sum(variable * gradient))
    unhook = hook_update_step(optimizer, before)
    model.compile(optimizer, loss="mse")
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
unhook()
kernel, bias, expected = np.ones((5, 3)), np.zeros(3), np.zeros(2)
for i in range(0, 16, 8):
    error = 2 * (x[i:i+8] @ kernel + bias - y[i:i+8]) / (8 * 3)
    gradients = [x[i:i+8].T @ error, error.sum(0)]
    expected += [np.sum(kernel * gradients[0]), np.sum(bias * gradients[1])]
    kernel, bias = kernel - 0.1 * gradients[0], bias - 0.1 * gradients[1]
print(json.dumps({
    "expected": expected.tolist(),
    "replicas": [[float(c.numpy()) for c in sums[k].value.values] for k in keys]}))
"""


def test_on_every_replica_the_hook_sees_the_summed_gradient(run_alone):
    seen = json.loads(run_alone(MIRRORED))
    for replicas, expected in zip(seen["replicas"], seen["expected"], strict=True):
        assert len(replicas) == 2 and abs(expected) > 1e-4
        np.testing.assert_allclose(replicas, expected, rtol=1e-4)


def test_keras_knows_excluded_variables_by_key():
    old, new = keras.Variable([1.0]), keras.Variable([1.0])
    optimizer = optimizers.SGD(0.1, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[old])
    assert optimizer._exclude_from_weight_decay == {variable_key(optimizer, old)}
    assert not optimizer._use_weight_decay(old) and optimizer._use_weight_decay(new)
    assert optimizer._exclude_from_weight_decay_cache == {
        variable_key(optimizer, old): False,
        variable_key(optimizer, new): True,
    }
    newest = keras.Variable([1.0])
    move_weight_decay_exclusions(optimizer, [(old, newest)])
    assert not optimizer._use_weight_decay(newest) and optimizer._use_weight_decay(old)


def test_an_optimizer_knows_what_it_was_built_on():
    variables, optimizer = [keras.Variable([1.0]), keras.Variable([2.0])], optimizers.SGD(0.1)
    assert built_on(optimizer) == [] and not optimizer.built
    optimizer.build(variables)
    assert all(a is b for a, b in zip(built_on(optimizer), variables, strict=True))
    assert variable_key(optimizer, variables[0]) == variable_key(optimizer, variables[0].value)
    assert variable_key(optimizer, variables[0]) != variable_key(optimizer, variables[1])
