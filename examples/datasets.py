"""The data of the examples and benchmarks, as NumPy arrays, and as a stream of batches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

# Log-mel features of one second of sound: what firmware has to compute likewise.
SAMPLE_RATE = 8000  # Hz
FRAME, STEP, FFT = 256, 160, 256  # samples: 32 ms windows (periodic Hann) every 20 ms
MEL_BINS, LOWEST, HIGHEST = 20, 20.0, 4000.0  # Hz
FLOOR = 1e-6  # added to the mel energies before the logarithm
TEST_RECORDINGS = 5  # recordings 0 to 4 of each speaker and digit, as the data set's authors split


@dataclass(frozen=True)
class Data:
    """Images or features in float32, channels last, and integer classes."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.x_train.shape[1:]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(self.y_train.max()) + 1

    def validation(self, share: float = 0.1) -> Data:
        """The same training data with a share of them held out in place of the test data."""
        order = np.random.default_rng(0).permutation(len(self.x_train))
        held, rest = np.split(order, [round(share * len(order))])
        x, y = self.x_train, self.y_train
        return replace(self, x_train=x[rest], y_train=y[rest], x_test=x[held], y_test=y[held])


def digits() -> Data:
    """1,797 handwritten digits that come with scikit-learn: 8x8, enlarged to 28x28 for LeNet-5."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = tf.image.resize(images.reshape(-1, 8, 8, 1) / 16.0, (28, 28)).numpy()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    return Data(images[360:], labels[360:], images[:360], labels[:360])


def mnist() -> Data:
    """70,000 handwritten digits, 28x28, through TensorFlow Datasets."""
    return _images("mnist")


def fashion_mnist() -> Data:
    """70,000 pictures of clothes, 28x28, through TensorFlow Datasets."""
    return _images("fashion_mnist")


def spoken_digit() -> Data:
    """2,500 spoken digits as log-mel features (49 frames, 20 bins), through TensorFlow Datasets."""
    features, labels, test = spoken_digit_features()
    mean, deviation = features[~test].mean(), features[~test].std()
    features = (features - mean) / deviation
    return Data(features[~test], labels[~test], features[test], labels[test])


def spoken_digit_features() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-mel features as they are, classes, and which recordings are for testing."""
    sounds = _tfds().load("spoken_digit", split="train")
    sounds = sounds.map(lambda r: (log_mel(r["audio"]), r["label"], r["audio/filename"]))
    features, labels, names = (np.array(column) for column in zip(*sounds.as_numpy_iterator()))
    number = np.array([int(name.decode().rsplit("_", 1)[1].split(".")[0]) for name in names])
    return features, labels, number < TEST_RECORDINGS


def log_mel(sound: tf.Tensor) -> tf.Tensor:
    """Log-mel energies of one second of sound, cut or filled with silence: `(frames, bins, 1)`.

    Args:
        sound: samples at 8 kHz, in the range of int16.
    """
    sound = tf.cast(sound[:SAMPLE_RATE], tf.float32) / 32768.0
    sound = tf.pad(sound, [[0, SAMPLE_RATE - tf.shape(sound)[0]]])
    spectrum = tf.abs(tf.signal.stft(sound, FRAME, STEP, FFT))
    to_mel = tf.signal.linear_to_mel_weight_matrix(
        MEL_BINS, FFT // 2 + 1, SAMPLE_RATE, LOWEST, HIGHEST
    )
    energies = tf.matmul(spectrum, to_mel)
    return tf.math.log(energies + FLOOR)[..., tf.newaxis]


DATASETS = {dataset.__name__: dataset for dataset in (digits, mnist, fashion_mnist, spoken_digit)}


def batches(x: np.ndarray, y: np.ndarray, batch_size: int, seed: int = 0) -> tf.data.Dataset:
    """Batches in a new order each epoch, cut from the arrays as they are needed.

    The arrays stay outside TensorFlow, so what its allocator reports is the training's own
    memory; and this is faster than `fit(x, y)`, which gathers every batch in the graph.
    """
    random = np.random.default_rng(seed)

    def epoch():
        order = random.permutation(len(x))
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            yield x[rows], y[rows]

    signature = tuple(tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in (x, y))
    dataset = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    steps = math.ceil(len(x) / batch_size)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(1)


def _images(name: str) -> Data:
    def split(part):
        # In parts, copied out of TensorFlow, which keeps none: so that this takes little of the
        # memory that the training may have.
        tfds = _tfds()
        reading = tfds.ReadConfig(try_autocache=False)
        parts = tfds.load(
            name, split=part, batch_size=1000, as_supervised=True, read_config=reading
        )
        copies = [(np.array(x, "float32") / 255.0, np.array(y)) for x, y in parts]
        images, labels = zip(*copies)
        return np.concatenate(images), np.concatenate(labels)

    return Data(*split("train"), *split("test"))


def _tfds():
    """TensorFlow Datasets, told to be quiet; it keeps what it downloads, and nobody else does."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "This data comes through TensorFlow Datasets, which could not be imported: "
            'pip install "keras-dynhp[examples]"'
        ) from error
    tfds.disable_progress_bar()
    return tfds
