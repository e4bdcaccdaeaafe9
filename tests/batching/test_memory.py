"""What the data take while the batch size changes: one copy of the arrays; in a child process.

Its TensorFlow counts what it allocates on the CPU.
"""

import os
import subprocess
import sys

CHILD = """
import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.batching.data import FitData

x, y = np.zeros((8192, 1024), "float32"), np.zeros((8192, 1), "float32")
ARRAYS = x.nbytes + y.nbytes


class Resize(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        tf.config.experimental.reset_memory_stats("CPU:0")
        self.data = FitData.attach(self.model)

    def on_epoch_end(self, epoch, logs=None):
        self.data.set_batch_size(self.data.batch_size + 7)

    def on_train_end(self, logs=None):
        self.data.detach()


model = keras.Sequential([keras.Input((1024,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(x, y, batch_size=20, epochs=4, verbose=0, callbacks=[Resize()])
memory = tf.config.experimental.get_memory_info("CPU:0")
assert ARRAYS < memory["peak"] < 1.2 * ARRAYS, (memory, ARRAYS)
assert memory["current"] < 0.1 * ARRAYS, (memory, ARRAYS)
"""


def test_arrays_are_held_once_and_let_go_of_after_fit():
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CPU_ALLOCATOR_USE_BFC": "1"}
    command = [sys.executable, "-c", CHILD]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert child.returncode == 0, child.stderr[-3000:]
