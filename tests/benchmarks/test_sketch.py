"""The sketch in NumPy does what it says: sizes are met, and neurons that go are made up for."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.sketch import Method, Network, _size, table, train
from benchmarks.sketch_gates import GATES


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


@pytest.mark.parametrize("criterion", ["random", "magnitude", "lasso", *GATES])
def test_every_criterion_ends_with_the_size_asked_for(data, criterion):
    method = Method(inputs=True, widths=(30, 10), epochs=20, criterion=criterion)
    network, _ = train(method, data, seed=0)
    assert _size(network.widths) <= _size((784, 30, 10)) / 10
    assert network.learned == [None] * 3  # what only chose is gone


@pytest.mark.parametrize("make", GATES.values(), ids=GATES)
def test_learned_gates_follow_the_gradients_of_loss_and_price(make, monkeypatch):
    """The loss is the sum of the gates times numbers; the price that of the paper."""
    monkeypatch.setattr(make, "PRICE", 0.5)
    weights = np.array([0.3, -0.2, 0.0])
    gates = make(3)
    gates.parameters[0] += np.array([-1.5, 0.1, 0.4])

    def loss():
        sampled = gates.sample(np.random.default_rng(5)).astype(float)
        return float(sampled @ weights) + make.PRICE * float(gates.score().sum())

    loss()
    found = gates.gradients(weights)
    for parameter, gradient in zip(gates.parameters, found):
        for i in range(3):
            parameter[i] += 1e-3
            slope = loss()
            parameter[i] -= 2e-3
            slope = (slope - loss()) / 2e-3
            parameter[i] += 1e-3
            assert gradient[i] == pytest.approx(slope, rel=0.02, abs=1e-4)


def test_group_lasso_is_a_share_of_the_first_loss_and_pulls_norms_down(data):
    network = Network(Method(widths=(5, 4), criterion="lasso"), np.random.default_rng(1))
    x, y = data.x_train[:32], data.y_train[:32]
    norms = [np.sqrt(np.square(network.weights[i]).sum(0)) for i in (0, 2)]
    gradients = [np.zeros_like(w) for w in network.weights]
    network._add_lasso(gradients, loss=2.3)
    assert network.lasso * sum(n.sum() for n in norms) == pytest.approx(2.3 / 3)
    for i, norm in zip((0, 2), norms):
        np.testing.assert_allclose(gradients[i], network.lasso * network.weights[i] / norm, 1e-4)
    network.lasso = 0.0  # as at the first step
    plain = Network(Method(widths=(5, 4)), np.random.default_rng(1))
    for one in (network, plain):
        one.step(x, y, 0.0, None, [])
    for i, norm in zip((0, 2), norms):
        added = (network.means[i] - plain.means[i]) / 0.1
        np.testing.assert_allclose(added, network.lasso * network.weights[i] / norm, 1e-2, 1e-6)


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
