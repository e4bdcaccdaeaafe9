"""Every optimizer of Keras, moved to a smaller network: the same numbers as by hand or without."""

from __future__ import annotations

import gc
import inspect
import re
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from keras_dynhp.rebuild.optimizer import plan_optimizer
from keras_dynhp.rebuild.release import release_variable
from keras_dynhp.rebuild.transfer import Transfer


def one_optimizer_per_layer():
    """A MultiOptimizer whose function makes its optimizers, and new ones if it is asked again."""
    made: dict = {}

    def select(variable):
        layer = variable.path.split("/")[-2]
        if len(made.setdefault(layer, [])) % 2 == 0:  # each layer has two variables
            adam = layer == "hidden"
            made[layer].append(optimizers.Adam(0.01) if adam else optimizers.SGD(0.02, 0.9))
        else:
            made[layer].append(made[layer][-1])
        return made[layer][-1]

    return optimizers.MultiOptimizer(select)


VARIANTS = {
    "sgd": lambda: optimizers.SGD(0.05),
    "sgd_momentum": lambda: optimizers.SGD(0.05, momentum=0.9),
    "sgd_nesterov": lambda: optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "rmsprop": lambda: optimizers.RMSprop(0.01),
    "rmsprop_centered": lambda: optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "adam": lambda: optimizers.Adam(0.01),
    "amsgrad": lambda: optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: optimizers.AdamW(0.01),
    "adadelta": lambda: optimizers.Adadelta(0.5),
    "adagrad": lambda: optimizers.Adagrad(0.1, initial_accumulator_value=0.3),
    "adamax": lambda: optimizers.Adamax(0.01),
    "adafactor": lambda: optimizers.Adafactor(0.01),
    "nadam": lambda: optimizers.Nadam(0.01),
    "ftrl": lambda: optimizers.Ftrl(0.1, l1_regularization_strength=0.001),
    "lion": lambda: optimizers.Lion(0.005),
    "lamb": lambda: optimizers.Lamb(0.01),
    "muon": lambda: optimizers.Muon(0.01),
    "muon_excluding_out": lambda: optimizers.Muon(0.01, exclude_layers=["out"]),
    "schedule_free": lambda: optimizers.ScheduleFreeAdamW(0.01, warmup_steps=2),
    "loss_scale_adam": lambda: optimizers.LossScaleOptimizer(
        optimizers.Adam(0.01), initial_scale=8.0, dynamic_growth_steps=2
    ),
    "loss_scale_nadam": lambda: optimizers.LossScaleOptimizer(optimizers.Nadam(0.01)),
    "loss_scale_adafactor": lambda: optimizers.LossScaleOptimizer(optimizers.Adafactor(0.01)),
    "multi_map": lambda: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(optimizers.Nadam(0.01), {".*hidden/kernel": optimizers.Lion(0.01)})
    ),
    "multi_function": one_optimizer_per_layer,
    "ema": lambda: optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=2),
    "accumulation": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "clipnorm": lambda: optimizers.SGD(0.05, momentum=0.9, clipnorm=0.1),
    "global_clipnorm": lambda: optimizers.Adam(0.01, global_clipnorm=0.1),
    "schedule": lambda: optimizers.SGD(optimizers.schedules.CosineDecay(0.1, 20), momentum=0.9),
}

# What older versions of Keras do not have; 3.12 has a Muon that takes no step with TensorFlow.
MUON_WORKS = not keras.__version__.startswith("3.12.")
MISSING = {
    "muon": not MUON_WORKS,
    "muon_excluding_out": not MUON_WORKS,
    "schedule_free": not hasattr(optimizers, "ScheduleFreeAdamW"),
    "multi_map": not hasattr(optimizers, "MultiOptimizer"),
    "multi_function": not hasattr(optimizers, "MultiOptimizer"),
}
VARIANTS = {name: make for name, make in VARIANTS.items() if not MISSING.get(name)}

# One of each kind of state; those that differ from it in a setting are in the sweep.
in_suite = pytest.mark.sweep(
    r"^(sgd_momentum|adam|rmsprop_centered|adafactor|nadam|ftrl|lion|muon|schedule_free|"
    r"loss_scale_adam|multi_map|multi_function|ema|accumulation|global_clipnorm)$"
)


def every_optimizer(test):
    return in_suite(pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)(test))


# The longer side of each kernel is not the one that is cut: Muon scales its steps by it.
INPUTS, HIDDEN, OUTPUTS = 20, 12, 16
KEPT = np.array([0, 2, 3, 5, 6, 8, 9, 11])
REMOVED = np.array([1, 4, 7, 10])

# What is left of an array of the shape of each variable of `mlp`, written out by hand.
CUT_BY_HAND = [lambda w: w[:, KEPT], lambda b: b[KEPT], lambda w: w[KEPT, :], lambda b: b]


def mlp(hidden: int = HIDDEN, dtype: str = "float32") -> keras.Sequential:
    """Two layers; the same names whatever the width, as a rebuilt model has them."""

    def dense(units, activation, name):
        initializer = keras.initializers.GlorotUniform(units)
        return keras.layers.Dense(
            units, activation, kernel_initializer=initializer, dtype=dtype, name=name
        )

    layers = [dense(hidden, "relu", "hidden"), dense(OUTPUTS, None, "out")]
    return keras.Sequential([keras.Input((INPUTS,), dtype=dtype), *layers], name="mlp")


def smaller(model: keras.Model, optimizer=None, hidden: int = len(KEPT)) -> keras.Model:
    """The model without the removed neurons, and its optimizer moved to it."""
    new = mlp(hidden, model.layers[0].dtype_policy.name)
    keeps = [{1: KEPT}, {0: KEPT}, {0: KEPT}, {}] if hidden < HIDDEN else [{}] * 4
    transfers = [Transfer(a, b, k) for a, b, k in zip(model.variables, new.variables, keeps)]
    for transfer in transfers:
        transfer.new.assign(transfer.take(transfer.old.numpy()))
    if optimizer is not None:
        plan_optimizer(optimizer, transfers).commit()
        for transfer in transfers:
            release_variable(transfer.old)
    return new


def batches(count: int, dtype: str = "float32") -> list:
    rng = np.random.default_rng(1)
    shapes = [(8, INPUTS), (8, OUTPUTS)]
    return [tuple(rng.normal(size=s).astype(dtype) for s in shapes) for _ in range(count)]


def train(model: keras.Model, optimizer, data) -> None:
    for x, y in data:
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.square(model(x, training=True) - y))
            loss = optimizer.scale_loss(loss)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)


def trained(make, steps: int = 3, dtype: str = "float32", dead: bool = False):
    model, optimizer = mlp(dtype=dtype), make()
    if dead:
        kernel, bias, out, rest = model.get_weights()
        kernel[:, REMOVED], bias[REMOVED], out[REMOVED, :] = 0.0, 0.0, 0.0
        model.set_weights([kernel, bias, out, rest])
    train(model, optimizer, batches(steps, dtype))
    return model, optimizer


def inner(optimizer) -> list:
    """The optimizers that hold slots."""
    if isinstance(optimizer, optimizers.LossScaleOptimizer):
        return [optimizer.inner_optimizer]
    if hasattr(optimizer, "optimizers"):
        return list(optimizer.optimizers)
    return [optimizer]


def test_every_optimizer_in_keras_is_considered():
    in_keras = {name for name, thing in vars(optimizers).items() if inspect.isclass(thing)}
    not_optimizers = {"Optimizer", "OptimizerMap"} | (set() if MUON_WORKS else {"Muon"})
    assert {type(make()).__name__ for make in VARIANTS.values()} == in_keras - not_optimizers


@every_optimizer
def test_a_surgery_that_removes_nothing_changes_no_number(make):
    untouched, its_optimizer = trained(make, steps=6)
    model, optimizer = trained(make, steps=3)
    model = smaller(model, optimizer, hidden=HIDDEN)
    train(model, optimizer, batches(6)[3:])
    for ours, theirs in zip(
        model.variables + optimizer.variables, untouched.variables + its_optimizer.variables
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)


# Adafactor divides by means over whole rows, columns and tensors, so removing dead neurons changes
# every step: its slots are compared with by-hand cuts below. Where norms couple a whole tensor
# (Lamb, Muon, clipping) zeros add nothing to them, and the steps are the same.
@pytest.fixture
def float64():
    """Everything in double precision, the learning rate too: rounding cannot hide a mistake."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


UNCOUPLED = [name for name in VARIANTS if "adafactor" not in name]


@in_suite
@pytest.mark.parametrize("make", [VARIANTS[name] for name in UNCOUPLED], ids=UNCOUPLED)
def test_without_its_dead_neurons_a_network_trains_on_as_with_them(make, float64):
    whole, its_optimizer = trained(make, steps=3, dtype="float64", dead=True)
    model, optimizer = trained(make, steps=3, dtype="float64", dead=True)
    model = smaller(model, optimizer)
    before = [variable.numpy() for variable in model.variables]
    for network, its in [(whole, its_optimizer), (model, optimizer)]:
        train(network, its, batches(7, "float64")[3:])
    for cut, ours, theirs, start in zip(CUT_BY_HAND, model.variables, whole.variables, before):
        np.testing.assert_allclose(ours.numpy(), cut(theirs.numpy()), rtol=1e-9, atol=1e-12)
        # Not all: Ftrl's l1 holds some weights at zero.
        assert np.mean(ours.numpy() != start) > 0.5, "the live weights do not move"


@every_optimizer
def test_slots_are_those_of_by_hand_cuts(make):
    model, optimizer = trained(make)
    keys = [optimizer._var_key(variable) for variable in model.trainable_variables]
    expected = []
    for node in inner(optimizer):
        mine = [keys.index(node._var_key(variable)) for variable in node._trainable_variables]
        for name, values in vars(node).items():
            if isinstance(values, list) and len(values) == len(mine) and "variables" not in name:
                for place, which, value in zip(range(len(mine)), mine, values):
                    if value is not None:
                        expected.append((node, name, place, by_hand(name, which, value.numpy())))
    smaller(model, optimizer)
    assert len(expected) >= 4 or make is VARIANTS["sgd"]
    for node, name, place, value in expected:
        np.testing.assert_array_equal(getattr(node, name)[place].numpy(), value, err_msg=name)


def by_hand(name: str, which: int, value: np.ndarray) -> np.ndarray:
    if value.ndim == 0:
        return value
    adafactors = {  # means over the last axis, and over the one before it
        ("_r", 0): value,
        ("_c", 0): value[KEPT] if which == 0 else None,
        ("_r", 2): value[KEPT] if which == 2 else None,
        ("_c", 2): value,
    }
    return adafactors[name, which] if (name, which) in adafactors else CUT_BY_HAND[which](value)


@every_optimizer
def test_variables_are_those_of_a_fresh_optimizer_on_the_smaller_model(make):
    model, optimizer = trained(make)
    new = smaller(model, optimizer)
    fresh_model, fresh = mlp(len(KEPT)), make()
    train(fresh_model, fresh, batches(1))

    def described(some_optimizer):
        # Keras numbers what it names itself, optimizers included.
        return [
            (re.sub(r"_\d+", "", variable.path), tuple(variable.shape), variable.dtype)
            for variable in some_optimizer.variables
        ]

    assert described(optimizer) == described(fresh)
    for node, fresh_node in zip([optimizer, *inner(optimizer)], [fresh, *inner(fresh)]):
        positions = [
            node._get_variable_index(variable)
            for variable in new.trainable_variables
            if node._var_key(variable) in node._trainable_variables_indices
        ]
        assert positions == list(range(len(fresh_node._trainable_variables)))
        assert len(node._trainable_variables_indices) == len(positions)
        known = {id(variable) for variable in node._trainable_variables}
        assert known <= {id(variable) for variable in new.trainable_variables}


# Keras itself cannot save a MultiOptimizer whose map is a function.
SAVEABLE = [name for name in VARIANTS if name != "multi_function"]


@in_suite
@pytest.mark.parametrize("make", [VARIANTS[name] for name in SAVEABLE], ids=SAVEABLE)
def test_a_saved_model_goes_on_where_the_optimizer_stands(make, tmp_path):
    model, optimizer = trained(make, steps=4)
    model = smaller(model, optimizer)
    model.compile(optimizer, loss="mse", run_eagerly=True)
    assert model.optimizer is optimizer
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)
    x, y = batches(1)[0]
    model.train_on_batch(x, y)
    loaded.train_on_batch(x, y)
    assert int(optimizer.iterations) == int(loaded.optimizer.iterations) > 1
    if make is not VARIANTS["loss_scale_nadam"]:  # Keras does not save Nadam's scalar inside it
        for ours, theirs in zip(model.variables, loaded.variables):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-7)


@pytest.fixture
def quick_collection():
    """Let the garbage collector look at what the test makes only."""
    gc.freeze()
    yield
    gc.unfreeze()


@every_optimizer
def test_nothing_keeps_an_old_variable_alive(make, quick_collection):
    model, optimizer = trained(make)
    old = [*optimizer.variables, *model.variables]
    new = smaller(model, optimizer)
    kept = {id(variable) for variable in [*optimizer.variables, *new.variables]}
    old = [weakref.ref(variable) for variable in old if id(variable) not in kept]
    del model
    gc.collect()
    assert len(old) >= 4
    assert [variable().path for variable in old if variable() is not None] == []


@pytest.mark.parametrize(
    "name", sorted({"adam", "adafactor", "nadam", "loss_scale_adam", "multi_map"} & set(VARIANTS))
)
def test_a_checkpoint_of_tensorflow_still_saves_and_restores(name, tmp_path):
    model, optimizer = trained(VARIANTS[name])
    model = smaller(model, optimizer)
    expected = [variable.numpy() for variable in optimizer._variables]
    checkpoint = tf.train.Checkpoint(optimizer=optimizer)
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    for variable in optimizer._variables:
        variable.assign(keras.ops.ones_like(variable))
    checkpoint.read(path).assert_existing_objects_matched()
    for variable, value in zip(optimizer._variables, expected):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)


def test_a_step_traced_before_fails_instead_of_training_what_is_dead():
    model, optimizer = trained(VARIANTS["adam"])
    step = tf.function(lambda: train(model, optimizer, batches(1)))
    step()
    new = smaller(model, optimizer)
    with pytest.raises(tf.errors.InvalidArgumentError):
        step()
    moments = [slot.numpy() for slot in optimizer._momentums]
    tf.function(lambda: train(new, optimizer, batches(1)))()
    assert all(np.any(m != s.numpy()) for m, s in zip(moments, optimizer._momentums))


def test_fit_goes_on_with_xla_after_surgery():
    x, y = batches(1)[0]
    histories = []
    for cut in [False, True]:
        model, optimizer = trained(VARIANTS["adam"], dead=True)
        model = smaller(model, optimizer) if cut else model
        model.compile(optimizer, loss="mse", jit_compile=True)
        history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        histories.append(history.history["loss"])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-5)


def test_surgery_on_an_optimizer_that_is_not_built_yet():
    model, optimizer = mlp(), optimizers.Adam(0.01)
    new = smaller(model, optimizer)
    assert not optimizer.built and len(optimizer.variables) == 2
    train(new, optimizer, batches(1))
    assert int(optimizer.iterations) == 1


def test_twice_in_a_row():
    model, optimizer = trained(VARIANTS["adamw"])
    for _ in range(2):
        model = smaller(model, optimizer, hidden=HIDDEN)
    untouched, its_optimizer = trained(VARIANTS["adamw"], steps=5)
    train(model, optimizer, batches(5)[3:])
    for ours, theirs in zip(model.variables, untouched.variables):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert len(optimizer.variables) == len(its_optimizer.variables)
