"""Real files and real arenas of the benchmark networks, made once for all tests of estimates."""

import functools
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "export"))

import networks

from keras_dynhp.export import tflm
from keras_dynhp.export.convert import convert
from keras_dynhp.export.data import read_samples


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """A function from a model to (bytes of its file, path of the file)."""
    folder = tmp_path_factory.mktemp("files")

    def make(model, quantize="int8"):
        networks.with_weights(model)
        samples = read_samples(model, networks.samples(model, 8))
        content = convert(model, quantize, samples).content
        path = folder / f"{len(list(folder.iterdir()))}.tflite"
        path.write_bytes(content)
        return path

    return make


@pytest.fixture(scope="session")
def measured(real):
    """A function from a benchmark network's name and scale to (model, file, bytes of arena)."""

    @functools.cache
    def make(name, scale):
        model = networks.NETWORKS[name](scale)
        path = real(model)
        return model, path, tflm.measure_arena(str(path))

    return make
