"""The sketch in NumPy does what it says: sizes are met, and neurons that go are made up for."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.sketch import Method, Network, _size, table, train


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    y = random.integers(0, 10, 512)
    x = np.eye(784, dtype="float32")[7 * y] + random.normal(0, 0.1, (512, 784)).astype("float32")
    return SimpleNamespace(x_train=x, y_train=y)


@pytest.mark.parametrize("inputs", [True, False])
def test_it_learns_and_ends_with_the_size_asked_for(data, inputs):
    method = Method(inputs=inputs, widths=(100, 20), epochs=60)
    network, _ = train(method, data, seed=0)
    assert _size(network.widths) <= _size((784, 100, 20)) / 10
    assert (network.widths[0] < 784) == inputs == (len(network.inputs) < 784)
    assert network.accuracy(data.x_train, data.y_train) > 90


def test_gradients_are_those_of_the_loss(data):
    network = Network(Method(widths=(5, 4)), np.random.default_rng(1))
    x, y = data.x_train[:32], data.y_train[:32]

    def loss():
        logits = network.hidden(x)[1] @ network.weights[4] + network.weights[5]
        odds = np.exp(logits.astype(float))
        return -np.log(odds[np.arange(32), y] / odds.sum(1)).mean()

    place, step = (7 * int(y[0]), 2), 1e-2
    before = loss()
    network.weights[0][place] += step
    slope = (loss() - before) / step
    network.weights[0][place] -= step
    network.step(x, y, 0.0, None, [])
    assert network.means[0][place] / 0.1 == pytest.approx(slope, rel=0.05, abs=1e-4)


@pytest.mark.parametrize("made_up", ["mean", "fit"])
def test_a_constant_neuron_is_made_up_for(data, made_up):
    network = Network(Method(widths=(6, 4), made_up=made_up), np.random.default_rng(2))
    network.weights[0][:, 3], network.weights[1][3] = 0, 0.7  # whatever comes in, 0.7 comes out
    x = data.x_train[:64]
    before = network.hidden(x)[1]
    masks = [np.ones(784, bool), np.arange(6) != 3, np.ones(4, bool)]
    network.make_up(data.x_train, masks)
    network.shrink(masks)
    np.testing.assert_allclose(network.hidden(x)[1], before, atol=1e-3)


def test_the_table_has_means_and_errors():
    lines = [
        {"row": "fashion_10x", "variant": "fold", "accuracy": a, "training_accuracy": 92.0}
        for a in (88.0, 90.0)
    ]
    assert "| 89.00 ± 1.00 (2; 92.0) |" in table(lines)
