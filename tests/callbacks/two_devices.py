"""Training on two logical CPU devices, in a process of its own: devices are made before TensorFlow.

`python two_devices.py mirrored` tells what became of the replicas, as JSON.
"""

import json
import sys

import keras
import tensorflow as tf
from half_dead import data, live_params, network, steps

import keras_dynhp as dynhp
from keras_dynhp.memory.budget import Budget
from keras_dynhp.memory.estimate import StepMemory

X, Y = data()


@keras.saving.register_keras_serializable(package="tests")
class Batches(keras.layers.Layer):
    """Counts the samples that a replica sees in a step: half of it is one replica's."""

    def build(self, shape):
        self.seen = self.add_weight(
            shape=(64,), initializer="zeros", trainable=False, aggregation="mean", name="seen"
        )

    def call(self, x, training=False):
        if training:
            self.seen.assign_add(tf.one_hot(tf.shape(x)[0], 64))
        return x


def make():
    inner, inputs = network(synchronized=True), keras.Input((5,))
    model = keras.Model(inputs, inner(Batches(name="batches")(inputs)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def fit(model, callbacks, epochs=3):
    history = model.fit(
        X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks
    )
    return {key: [float(v) for v in values] for key, values in history.history.items()}


def mirrored() -> dict:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    plain = fit(make(), [])
    with strategy.scope():
        model = make()
    hp = dynhp.DynHP(
        target=dynhp.Target(params=live_params() + 64), schedule=steps, batch_size="fixed"
    )
    told = {"plain": plain, "pruned": fit(model, [hp])}
    batches = model.get_layer("batches").seen.numpy()
    replicas = [[], []]
    for variable in [*model.weights, *model.optimizer.variables]:
        values = strategy.experimental_local_results(variable.value)
        for replica, value in zip(replicas, values, strict=True):
            replica.append(value.numpy())
    return {
        **told,
        "params": model.count_params(),
        "shapes": [[value.shape for value in replica] for replica in replicas],
        "bits": [[value.tobytes().hex() for value in replica] for replica in replicas],
        "batches": {size: int(count) for size, count in enumerate(batches) if count},
        "with_budget": with_budget(strategy),
    }


def with_budget(strategy) -> dict:
    """The largest batches that fit one and the same budget, alone and on two replicas."""
    with strategy.scope():
        model = make()
    alone = make()
    alone.optimizer.build(alone.trainable_variables)
    limit = Budget(2**30).predict(StepMemory(alone, alone.optimizer).at(7))
    told = {"alone": Budget(limit).largest_batch(alone, alone.optimizer)}
    try:
        fit(model, [dynhp.DynHP(1000)], epochs=1)
    except dynhp.BudgetError as error:
        told["too_small"] = str(error)
    hp = dynhp.DynHP(limit, schedule=lambda progress: 0.0, batch_size="memory")
    return {**told, "both": fit(model, [hp], epochs=1)["batch_size"]}


if __name__ == "__main__":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, 2 * [tf.config.LogicalDeviceConfiguration()])
    print(json.dumps({"mirrored": mirrored}[sys.argv[1]]()))
