"""The data of the examples; what needs a download is tried where it has been downloaded."""

import numpy as np
import pytest
import tensorflow as tf

from examples import datasets


@pytest.fixture(scope="module")
def digits():
    return datasets.digits()


def test_digits_fit_every_network(digits):
    assert digits.input_shape == (28, 28, 1)
    assert (len(digits.x_train), len(digits.x_test), digits.classes) == (1437, 360, 10)
    assert digits.x_train.dtype == np.float32
    assert 0 <= digits.x_train.min() < digits.x_train.max() <= 1


def test_validation_data_come_from_the_training_data(digits):
    held = digits.validation(0.1)
    assert len(held.x_test) == 144
    assert len(held.x_train) + len(held.x_test) == len(digits.x_train)
    assert held.x_train.sum() + held.x_test.sum() == pytest.approx(digits.x_train.sum(), rel=1e-4)
    pixels = {image.tobytes() for image in digits.x_test}
    assert not any(image.tobytes() in pixels for image in held.x_test)


def test_batches_hold_every_sample_once_in_a_new_order_each_epoch():
    x, y = np.arange(10, dtype="float32")[:, None], np.arange(10)
    stream = datasets.batches(x, y, 4)
    assert int(stream.cardinality()) == 3
    epochs = [[(a.ravel(), b) for a, b in stream.as_numpy_iterator()] for _ in range(2)]
    orders = [np.concatenate([b for _, b in epoch]) for epoch in epochs]
    for epoch, order in zip(epochs, orders):
        assert [len(b) for _, b in epoch] == [4, 4, 2]
        assert sorted(order) == list(range(10))
        assert all((a == b).all() for a, b in epoch)
    assert (orders[0] != orders[1]).any()


def test_log_mel_hears_a_tone_at_its_pitch():
    """A tone of the middle frequency of a mel bin is loudest there, in every frame of a second."""
    hertz_to_mel = lambda f: 1127 * np.log1p(f / 700)  # noqa: E731 - the formula of HTK
    low, high = hertz_to_mel(datasets.LOWEST), hertz_to_mel(datasets.HIGHEST)
    for wanted in (4, 11, 16):
        mel = low + (wanted + 1) * (high - low) / (datasets.MEL_BINS + 1)
        pitch = 700 * np.expm1(mel / 1127)
        time = np.arange(datasets.SAMPLE_RATE) / datasets.SAMPLE_RATE
        tone = tf.constant(10_000 * np.sin(2 * np.pi * pitch * time), tf.int64)
        energies = datasets.log_mel(tone).numpy()[..., 0]
        assert energies.shape == (49, datasets.MEL_BINS)
        assert (energies.argmax(axis=1) == wanted).all()


def test_log_mel_fills_short_sounds_with_silence_and_cuts_long_ones():
    random = np.random.default_rng(0)
    sound = tf.constant(random.integers(-9999, 9999, 20_000), tf.int64)
    short, long = datasets.log_mel(sound[:4000]).numpy(), datasets.log_mel(sound).numpy()
    assert short.shape == long.shape == (49, datasets.MEL_BINS, 1)
    np.testing.assert_allclose(short[30:], np.log(datasets.FLOOR), rtol=1e-5)
    np.testing.assert_array_equal(long, datasets.log_mel(sound[:8000]).numpy())


def _is_downloaded(name):
    tfds = pytest.importorskip("tensorflow_datasets")
    return tfds.builder(name).data_path.exists()


@pytest.mark.sweep("fashion")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_images_come_whole_through_tensorflow_datasets(name):
    if not _is_downloaded(name):
        pytest.skip(f"{name} has not been downloaded")
    data = datasets.DATASETS[name]()
    assert data.x_train.shape == (60_000, 28, 28, 1)
    assert data.x_test.shape == (10_000, 28, 28, 1)
    assert (np.bincount(data.y_test) > 800).all()
    assert data.x_train.max() == 1


def test_spoken_digits_are_split_as_their_authors_do():
    if not _is_downloaded("spoken_digit"):
        pytest.skip("spoken_digit has not been downloaded")
    data = datasets.spoken_digit()
    assert data.x_train.shape == (2250, 49, datasets.MEL_BINS, 1)
    assert np.bincount(data.y_test).tolist() == [25] * 10  # 5 speakers, recordings 0 to 4
    assert abs(data.x_train.mean()) < 1e-3 and abs(data.x_train.std() - 1) < 1e-3
