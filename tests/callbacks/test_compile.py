"""Whatever `compile` is given works across a prune, and gives the numbers of plain training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from half_dead import EPOCHS, compare, data, network
from half_dead import optimizer as sgd

import keras_dynhp as dynhp

X, Y = data()


def fit(model, callbacks, y=Y, **options):
    options = {"epochs": EPOCHS, "batch_size": 10, "verbose": 0, "shuffle": False, **options}
    return model.fit(X, y, callbacks=callbacks, **options).history


def maker(heads=1, cls=keras.Model, optimizer=None, **options):
    def make():
        model = network(heads, cls)
        chosen = (optimizer or sgd)()
        model.compile(chosen, **{"loss": "mse", "metrics": ["mae"], **options})
        return model

    return make


def test_plain():
    plain, _ = compare(maker(), fit, idle=0.0)
    assert plain["loss"][-1] < plain["loss"][0]


def test_jit_compile():
    compare(maker(jit_compile=True), fit, tolerance=1e-4, idle=1e-5)


@pytest.mark.parametrize("steps", [3])
def test_steps_per_execution(steps):
    compare(maker(steps_per_execution=steps), fit)


def test_run_eagerly():
    compare(maker(run_eagerly=True), lambda m, c: fit(m, c, batch_size=20))


def test_several_outputs_with_loss_weights():
    y = {"out": Y, "side": -Y, "third": Y**2}
    options = {
        "loss": {"out": "mse", "side": "mae", "third": "huber"},
        "loss_weights": {"out": 1.0, "side": 0.3, "third": 2.0},
        "metrics": {"out": ["mae"], "side": ["mse"]},
    }
    plain, _ = compare(maker(3, **options), lambda m, c: fit(m, c, y=y), heads=3)
    assert {"out_loss", "side_mse", "third_loss"} <= set(plain)


def test_weighted_metrics():
    weights = np.linspace(0.1, 2.0, len(X))
    plain, _ = compare(
        maker(weighted_metrics=["mse"]), lambda m, c: fit(m, c, sample_weight=weights)
    )
    assert plain["mse"] != plain["mae"]


@pytest.mark.parametrize("clip", [{"clipnorm": 0.05}, {"global_clipnorm": 0.1}])
def test_clipping(clip):
    compare(maker(optimizer=lambda: keras.optimizers.SGD(0.05, momentum=0.9, **clip)), fit)


def test_gradient_accumulation_goes_on_through_a_rebuild():
    # 4 steps an epoch, applied every 3: every rebuild comes while gradients are accumulated.
    compare(maker(optimizer=lambda: keras.optimizers.SGD(0.05, gradient_accumulation_steps=3)), fit)


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 0.02), ("mixed_bfloat16", 0.1)]
)
def test_mixed_precision(policy, tolerance):
    keras.config.set_dtype_policy(policy)
    _, pruned = compare(maker(), fit, tolerance=tolerance, idle=0.0)
    assert pruned.get_layer("first").dtype_policy.name == policy
    wrapped = isinstance(pruned.optimizer, keras.optimizers.LossScaleOptimizer)
    assert wrapped == (policy == "mixed_float16")


class OwnStep(keras.Model):
    """Trains on a loss of its own, and counts its steps in a variable of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.taken = self.add_weight(shape=(), name="taken", initializer="zeros", trainable=False)
        self.tracker = keras.metrics.Mean(name="own")

    @property
    def metrics(self):
        return [*super().metrics, self.tracker]

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = keras.ops.mean(keras.ops.abs(predicted - y)) * 3.0
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.taken.assign_add(1.0)
        self.tracker.update_state(loss)
        return {"own": self.tracker.result()}


def test_own_train_step_of_a_functional_subclass():
    plain, pruned = compare(maker(cls=OwnStep, metrics=None), fit, idle=0.0, extra=1)
    assert type(pruned) is OwnStep
    assert set(plain) == {"own"}
    assert float(pruned.taken) == EPOCHS * 4


def test_the_optimizer_object_and_its_count_stay():
    model = maker()()
    optimizer = model.optimizer
    fit(model, [dynhp.PruneAndRebuild(dynhp.Target(compression=2))])
    assert model.optimizer is optimizer
    assert int(optimizer.iterations) == EPOCHS * 4
    assert len(optimizer.variables) == 2 + len(model.trainable_variables)
