"""The noise of the gradient as Adam's moments tell it, against noise that is known."""

import keras
import numpy as np
import pytest

from keras_dynhp.batching.variance import gradient_variance, read_moments

SHAPES = [(120, 60), (60,), (60, 7)]


def train(optimizer, variables, spread, batch_size, steps, mean=0.0, seed=0):
    """Steps with mini-batch means of gradients that have this mean and this standard deviation."""
    noise = np.random.default_rng(seed)
    for _ in range(steps):
        gradients = [
            mean + spread * noise.normal(size=shape).astype("float32") / batch_size**0.5
            for shape in SHAPES
        ]
        optimizer.apply([keras.ops.array(gradient) for gradient in gradients], variables)


def in_adams_metric(optimizer, spread):
    """Variance of each coordinate, divided by the root of Adam's second moment, summed."""
    steps = int(optimizer.iterations.numpy())
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    squares = [v.numpy() / (1 - inner.beta_2**steps) for v in inner._velocities]
    return sum((spread**2 / (np.sqrt(square) + 1e-7)).sum() for square in squares)


def make_variables():
    return [keras.Variable(np.zeros(shape, "float32")) for shape in SHAPES]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(),
        lambda: keras.optimizers.AdamW(),
        lambda: keras.optimizers.Nadam(),
        lambda: keras.optimizers.Adam(beta_1=0.5, beta_2=0.99),
        lambda: keras.optimizers.Adam(beta_1=0.0),
    ],
)
@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_trace_is_that_of_the_samples(optimizer, mean):
    optimizer = optimizer()
    if optimizer.beta_1 == 0.0:
        mean = 0.0
    train(optimizer, make_variables(), spread=2.0, batch_size=16, steps=60, mean=mean)
    expected = in_adams_metric(optimizer, 2.0)
    assert gradient_variance(optimizer, 16) == pytest.approx(expected, rel=0.1)


def test_only_what_came_since_counts():
    """Large old noise, at another batch size, must not be taken for today's."""
    optimizer, variables = keras.optimizers.Adam(), make_variables()
    train(optimizer, variables, spread=20.0, batch_size=4, steps=60)
    since = read_moments(optimizer)
    train(optimizer, variables, spread=1.0, batch_size=16, steps=60, seed=1)
    expected = in_adams_metric(optimizer, 1.0)
    assert gradient_variance(optimizer, 16, since) == pytest.approx(expected, rel=0.1)
    assert gradient_variance(optimizer, 16) > 10 * expected


def test_loss_scaling_is_seen_through():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=1.0)
    variables = make_variables()
    train(optimizer, variables, spread=2.0, batch_size=16, steps=60)
    expected = in_adams_metric(optimizer.inner_optimizer, 2.0)
    assert gradient_variance(optimizer, 16) == pytest.approx(expected, rel=0.1)


def test_gradient_accumulation_makes_the_batch_larger():
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=4)
    train(optimizer, make_variables(), spread=2.0, batch_size=16, steps=160)
    expected = in_adams_metric(optimizer, 2.0)
    assert gradient_variance(optimizer, 16) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Lion", "Lamb", "Adagrad"])
def test_unknown_for_optimizers_without_both_moments(name):
    optimizer = getattr(keras.optimizers, name)()
    train(optimizer, make_variables(), spread=2.0, batch_size=16, steps=3)
    assert gradient_variance(optimizer, 16) is None
    assert read_moments(optimizer) == {}


def test_unknown_before_a_step():
    optimizer = keras.optimizers.Adam()
    assert gradient_variance(optimizer, 16) is None
    optimizer.build(make_variables())
    assert gradient_variance(optimizer, 16) is None
    since = read_moments(optimizer)
    assert gradient_variance(optimizer, 16, since) is None


def test_against_exact_gradients_of_a_training():
    """A real training: between half and twice the exact trace, which itself changes meanwhile."""
    x = np.random.default_rng(0).normal(size=(512, 20)).astype("float32")
    y = np.tanh(x[:, :3]).sum(1, keepdims=True) + np.random.default_rng(1).normal(size=(512, 1))
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    kernel, bias = model.layers[0].weights

    def exact():
        """The gradient of a sample's squared error is twice the error times its inputs."""
        error = 2 * (x @ kernel.numpy() + bias.numpy() - y)
        parts = [(x * error).var(0)[:, None], error.var(0)]
        steps = int(model.optimizer.iterations.numpy())
        squares = [v.numpy() / (1 - 0.999**steps) for v in model.optimizer._velocities]
        return sum((part / np.sqrt(square)).sum() for part, square in zip(parts, squares))

    for _ in range(4):
        since = read_moments(model.optimizer)
        model.fit(x, y, batch_size=16, epochs=1, verbose=0)
        assert 0.5 < gradient_variance(model.optimizer, 16, since) / exact() < 2
