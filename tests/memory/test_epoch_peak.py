"""What counts as an epoch's training beside data, in a process whose allocator reports."""

PIPELINES = """
import keras
import numpy as np
import tensorflow as tf

import keras_dynhp as dynhp

N, FEATURES, BATCH, BUDGET = 4000, 1024, 64, 5 << 20
x = np.random.default_rng(0).integers(0, 255, (N, FEATURES), dtype="uint8")
y = np.arange(N) % 10
floats = x / np.float32(255)


def scaled(pixels, label):
    return tf.cast(pixels, tf.float32) / 255.0, label


def generated():
    for start in range(0, N, BATCH):
        yield floats[start : start + BATCH], y[start : start + BATCH]


signature = (tf.TensorSpec((None, FEATURES)), tf.TensorSpec((None,), "int64"))
slices = lambda data: tf.data.Dataset.from_tensor_slices((data, y))
cases = {
    # The batches themselves and no other data: what the others are to come up to.
    "generator": lambda: tf.data.Dataset.from_generator(generated, output_signature=signature)
    .apply(tf.data.experimental.assert_cardinality(N // BATCH)),
    "tensors": lambda: slices(floats).batch(BATCH),
    "shuffled": lambda: slices(x).map(scaled).shuffle(N // 2).batch(BATCH),
    "cached": lambda: slices(x).map(scaled).cache().shuffle(N).batch(BATCH).prefetch(2),
    "arrays": lambda: floats,
}


def train(data):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(100, "relu"), keras.layers.Dense(10)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    hp = dynhp.DynHP(BUDGET, schedule="linear")
    labels = y if data is floats else None
    arguments = {"x": data, "y": labels, "batch_size": None if labels is None else BATCH}
    logs = model.fit(**arguments, epochs=3, verbose=0, shuffle=False, callbacks=[hp]).history
    return logs["batch_size"], logs["train_memory"]


_, alone = train(cases.pop("generator")())
for name, make in cases.items():
    batches, peaks = train(make())
    assert set(batches) == {BATCH}, (name, batches, peaks, alone)
    assert max(peaks) < BUDGET, (name, peaks)
    assert all(peak > 0.6 * other for peak, other in zip(peaks, alone)), (name, peaks, alone)
"""

ONE_STEP = """
import keras
import numpy as np
import tensorflow as tf

import keras_dynhp as dynhp

x, y = np.zeros((4000, 1024), "float32"), np.zeros((4000, 1), "float32")
data = tf.data.Dataset.from_tensor_slices((x, y)).map(lambda a, b: (a + 1, b)).shuffle(4000)
model = keras.Sequential(
    [keras.Input((1024,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(1)]
)
model.compile("adam", "mse")
hp = dynhp.DynHP("8MB")
history = model.fit(data.batch(20).take(1), epochs=4, verbose=0, shuffle=False, callbacks=[hp])
assert set(history.history["batch_size"]) == {20}, history.history
"""


def test_what_a_pipeline_holds_takes_nothing_from_the_batch(run_alone):
    run_alone(PIPELINES, TF_CPU_ALLOCATOR_USE_BFC="1")


def test_nor_in_epochs_of_one_step(run_alone):
    run_alone(ONE_STEP, TF_CPU_ALLOCATOR_USE_BFC="1")
