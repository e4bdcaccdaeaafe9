"""Data in every structure that `fit` takes, and what is refused."""

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dynhp.export.data import read_samples

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(size=(20, 4, 4, 1)).astype("float32")
NUMBERS = RANDOM.uniform(size=(20, 3)).astype("float32")
LABELS = RANDOM.integers(0, 2, 20)


def one_input():
    return networks.lenet_300_100(0.1)


def two_inputs(struct):
    """The keys of the dict are not the names of the inputs, and come in another order."""
    image, number = keras.Input((4, 4, 1), name="z"), keras.Input((3,), name="y")
    x = layers.Concatenate()([layers.Flatten()(image), number])
    inputs = {"a_image": image, "b_number": number} if struct == "dict" else [image, number]
    return keras.Model(inputs, {"kind": layers.Dense(2)(x), "box": layers.Dense(4)(x)})


class Batches(keras.utils.PyDataset):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(5 * index, 5 * index + 5)
        return keras.tree.map_structure(lambda values: values[rows], self.parts)


def generator(*parts):
    while True:
        yield keras.tree.map_structure(
            lambda values: values if values is None else values[:8], parts
        )


BY_KEY = {"a_image": IMAGES, "b_number": NUMBERS}
BY_NAME = {"y": NUMBERS, "z": IMAGES}
Y = {"box": RANDOM.normal(size=(20, 4)), "kind": LABELS}


def dataset(*parts, batch=7):
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(batch)


@pytest.mark.parametrize(
    ("struct", "data"),
    [
        ("dict", BY_KEY),
        ("dict", {**BY_KEY, "id": LABELS}),
        ("dict", BY_NAME),
        ("dict", [IMAGES, NUMBERS]),
        ("list", BY_NAME),
        ("list", (IMAGES, NUMBERS)),
        ("dict", dataset(BY_KEY)),
        ("dict", dataset(BY_KEY).unbatch()),
        ("dict", dataset(BY_KEY, Y)),
        ("dict", dataset(BY_KEY, Y, LABELS)),
        ("list", dataset((IMAGES, NUMBERS), (Y["box"], LABELS), LABELS)),
        ("list", dataset(IMAGES, NUMBERS)),
        ("list", dataset(BY_NAME, {"kind": LABELS})),
        ("dict", Batches(BY_KEY, Y)),
        ("dict", Batches(BY_KEY)),
        ("list", generator([IMAGES, NUMBERS], [Y["box"], None])),
    ],
)
def test_two_inputs(struct, data):
    samples = read_samples(two_inputs(struct), data)
    if hasattr(data, "__next__"):
        samples = samples.first(8)
    np.testing.assert_array_equal(samples.inputs[0], IMAGES[: len(samples)])
    assert samples.shapes == [(4, 4, 1), (3,)] and not samples.notes
    if samples.labels and samples.labels[1] is not None:  # Keras has outputs in a dict sorted
        np.testing.assert_array_equal(samples.labels[1], LABELS)


@pytest.mark.parametrize(
    "data",
    [
        NUMBERS,
        [NUMBERS],
        (NUMBERS,),
        {"only": NUMBERS},
        {"number": NUMBERS},
        NUMBERS.tolist(),
        list(NUMBERS),
        tf.constant(NUMBERS),
        NUMBERS[..., np.newaxis],
        dataset({"number": NUMBERS}, LABELS),
        dataset((NUMBERS,), LABELS, LABELS),
        Batches(NUMBERS, LABELS),
    ],
)
def test_one_input(data):
    number = keras.Input((3,), name="number")
    samples = read_samples(keras.Model({"only": number}, layers.Dense(2)(number)), data)
    np.testing.assert_array_equal(samples.inputs[0], NUMBERS)
    if samples.labels:
        np.testing.assert_array_equal(samples.labels[0], LABELS)


def test_images_without_their_channel():
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(2)])
    for data in (
        IMAGES[..., 0],
        dataset(IMAGES[..., 0], LABELS),
        dataset(IMAGES[..., 0]).unbatch(),
    ):
        np.testing.assert_array_equal(read_samples(model, data).inputs[0], IMAGES)


def test_labels_that_fit_no_output_are_noted():
    samples = read_samples(two_inputs("dict"), dataset(BY_KEY, {"other": LABELS}))
    assert samples.labels is None and "['box', 'kind']" in samples.notes[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a_image": IMAGES}, r"inputs are \['a_image', 'b_number'\]; received data for \['a_im"),
        ([IMAGES], "has 2 inputs; received 1 arrays"),
        (IMAGES, "give a list of 2 arrays or a dict by name"),
        (dataset(BY_KEY, Y).repeat(), "no end"),
        (generator(BY_KEY), "no end"),
        ("data", "received str"),
    ],
)
def test_what_is_refused(data, message):
    with pytest.raises((TypeError, ValueError), match=message):
        read_samples(two_inputs("dict"), data, most=None)
