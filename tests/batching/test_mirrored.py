"""Under MirroredStrategy each batch is split evenly; in a child, which needs two devices."""

from pathlib import Path

CHILD = """
import sys

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, sys.argv[1])
import keras
import numpy as np
import seen as t

from keras_dynhp.batching import RateFactor, SampleClock

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def fit(sizes, *data, **options):
    with strategy.scope():
        model = t.make_model()
    return t.fit(sizes, *data, model=model, **options)


last = {2: 1, 1: 1}  # 3 samples
for kind in ("arrays", "unknown length"):
    run = fit([4, 10, 2], *t.KINDS[kind](), **t.options_of(kind))
    assert run.times == [[1] * t.N] * 3, run.times
    assert run.batches == [{2: 11, 1: 1}, {5: 4, **last}, {1: 23, 0: 1}], run.batches
    assert run.steps == [6, 3, 12], run.steps
run = fit([4, 10, 4], t.repeated("dataset"), steps_per_epoch=5)
assert run.times == t.epochs_of(t.N, per_epoch=20, epochs=3), run.times
assert run.steps == [5, 2, 5], run.steps
try:
    fit([5], *t.arrays(), batch_size=4)
except ValueError as error:
    assert "positive multiple of 2" in str(error)
else:
    raise SystemExit("an uneven batch was taken")


def weight(factor, pace):
    # After two steps on a gradient of 1, at a rate of 1 as far as step 1 and 0.5 from there on.
    with strategy.scope():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([1], [1.0, 0.5])
        model.compile(keras.optimizers.SGD(rate), lambda y, p: keras.ops.mean(p, -1))
        model.layers[0].kernel.assign([[0.0]])
    scale, clock = RateFactor(model.optimizer), SampleClock(model.optimizer)
    scale.value = factor
    clock.set_pace(pace)
    model.fit(np.ones((8, 1)), np.ones((8, 1)), batch_size=4, verbose=0)
    return float(model.layers[0].kernel.numpy()[0, 0])


assert weight(1.0, 1.0) == -2.0, weight(1.0, 1.0)
assert weight(0.5, 1.0) == -1.0, weight(0.5, 1.0)
assert weight(1.0, 2.0) == -1.5, weight(1.0, 2.0)
"""


def test_global_batch_is_split_evenly(run_alone):
    run_alone(CHILD, Path(__file__).parent)
