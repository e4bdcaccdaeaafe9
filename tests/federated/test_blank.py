"""Networks without weights, and the clients that begin with them."""

import keras
import numpy as np

from keras_dynhp.federated.blank import blank_weights
from keras_dynhp.federated.layout import Layout
from keras_dynhp.federated.live import LiveNetwork


class Memory(keras.metrics.Metric):
    """A metric with a large variable."""

    def __init__(self):
        super().__init__()
        self.large = self.add_weight(shape=(50, 50), initializer="ones")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.large.assign_add(keras.ops.ones((50, 50)))

    def result(self):
        return keras.ops.mean(self.large)


def build():
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(40, "relu"),
            keras.layers.Dropout(0.5, seed=3),
            keras.layers.Dense(50, "relu"),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=[Memory()])
    return model


def test_large_weights_are_empty_and_all_else_is_there():
    with blank_weights() as blank:
        model = build()
    blank.fill_others(model)
    held = [np.asarray(variable).size for variable in model.weights]
    assert held == [0, 40, 0, 50, 150, 3]
    assert [tuple(v.shape) for v in model.weights] == [tuple(v.shape) for v in build().weights]
    states = [v for v in model.variables if "seed" in v.path]
    assert [np.asarray(v).tolist() for v in states] == [[3, 0]]


def test_a_blank_network_becomes_a_part_that_trains():
    """The same as a network with its weights from the start."""
    layout = Layout(build())
    part = np.random.default_rng(0).random(layout.neurons) < 0.5
    values = [np.random.default_rng(1).normal(0, 0.1, s) for s in layout.shapes(part)]
    values = [value.astype("float32") for value in values]
    x = np.random.default_rng(2).normal(size=(32, 64)).astype("float32")
    trained = []
    for is_blank in (True, False):
        if is_blank:
            with blank_weights() as blank:
                model = build()
            blank.fill_others(model)
        else:
            model = build()
        live = LiveNetwork(model)
        live.shrink(part, values=not is_blank)
        live.set_weights(values)
        model.fit(x, np.arange(32) % 3, batch_size=8, shuffle=False, verbose=0)
        trained.append(live.weights())
    for mine, expected in zip(*trained):
        np.testing.assert_allclose(mine, expected, atol=1e-6)
