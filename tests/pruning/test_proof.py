"""Targets in bytes: real fits, real conversions, real arenas."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_dynhp as dynhp
from keras_dynhp.errors import TargetError
from keras_dynhp.export import tflm
from keras_dynhp.export.convert import UnsupportedOperatorError
from keras_dynhp.pruning import goals

random = np.random.default_rng(0)
X = random.uniform(size=(240, 12, 12, 1)).astype("float32")
Y = (X[:, :6].mean(axis=(1, 2, 3)) > X[:, 6:].mean(axis=(1, 2, 3))).astype(int)


def network(middle=None):
    inputs = keras.Input((12, 12, 1))
    x = layers.Conv2D(16, 3, activation="relu", name="wide")(inputs)
    x = middle(x) if middle else x
    x = layers.Conv2D(32, 3, strides=2, activation="relu", name="deep")(x)
    x = layers.Dense(64, activation="relu", name="hidden")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return model


def fit(model, target, x=X, y=Y, **arguments):
    hp = dynhp.PruneAndRebuild(target)
    arguments = {"epochs": 4, "verbose": 0, **arguments}
    model.fit(x, y, callbacks=[hp, *arguments.pop("callbacks", [])], **arguments)
    return hp


def generator():
    while True:
        yield X[:32], Y[:32]


class Rows(keras.utils.PyDataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return X[40 * index : 40 * (index + 1)], Y[40 * index : 40 * (index + 1)]


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(30)


@pytest.mark.sweep("arrays|generator")
@pytest.mark.parametrize(
    ("make", "samples"),
    [
        (lambda: (X, Y), 200),
        (lambda: (dataset(), None), 200),
        (lambda: (Rows(), None), 40),
        (lambda: (generator(), None), 32),
    ],
    ids=["arrays", "dataset", "py_dataset", "generator"],
)
@pytest.mark.filterwarnings("ignore:representative_data has")
def test_training_ends_with_the_real_artifact(make, samples, tmp_path):
    model = network()
    x, y = make()
    steps = 6 if hasattr(x, "__next__") else None
    target = dynhp.Target(flash="16KB", ram="3KB")
    hp = fit(model, target, x, y, steps_per_epoch=steps)
    device = hp.report.device
    assert device["flash_bytes"] <= target.flash and device["ram_bytes"] <= target.ram
    assert device["fidelity"]["samples"] == samples
    assert not any("random" in note for note in device["notes"])
    # It is what the user then exports.
    report = dynhp.export_tflite(model, str(tmp_path / "m.tflite"), "int8", X)
    assert report.flash_bytes <= target.flash and report.ram_bytes <= target.ram
    assert report.ram_bytes == device["ram_bytes"]
    # ... and no more was taken than needed.
    assert report.flash_bytes > 0.85 * target.flash or report.ram_bytes > 0.85 * target.ram


@pytest.mark.parametrize(("name", "limit"), [("flash", 16 * 1024), ("ram", 3 * 1024)])
def test_an_estimate_that_is_too_low_is_corrected(name, limit, monkeypatch):
    # As if the estimate promised a sixth less than the device needs.
    monkeypatch.setitem(goals.SAFETY, name, 1.2)
    hp = fit(network(), dynhp.Target(**{name: limit}))
    real = hp.report.device[f"{name}_bytes"]
    assert 0.85 * limit < real <= limit
    assert hp.report.epochs[-1]["logs"]["params"] == hp.model.count_params()


def test_what_the_real_file_satisfies_is_not_called_missed():
    """The estimate goes to a share of the limit, and may still be above that share in the end."""
    hp = dynhp.PruneAndRebuild(dynhp.Target(flash="16KB"))

    class Doubt(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            hp._engine.goals.limits["flash"] = 1.0

    network().fit(X, Y, epochs=4, verbose=0, callbacks=[Doubt(), hp])
    assert "flash" in hp._engine.missed() and hp.report.missed == {}
    assert hp.report.device["flash_bytes"] <= 16 * 1024


@pytest.mark.parametrize("name", ["flash", "ram"])
def test_an_estimate_that_rises_on_the_way_does_not_stop_training(name):
    """What is always there is estimated anew for each network, and may exceed the goal then."""
    hp = dynhp.PruneAndRebuild(dynhp.Target(**{name: "16KB"}), round_to=2)

    class Rise(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                hp._engine.goals.limits[name] = 1.0

    model = network()
    model.fit(X, Y, epochs=6, verbose=0, callbacks=[hp, Rise()])
    groups = hp._engine.groups
    ((resource, least),) = hp._engine.goals.at(groups, 1.0)
    assert resource.value([group.size for group in groups]) == least > 1.0
    assert name in hp._engine.missed()
    assert hp.report.device[f"{name}_bytes"] <= 16 * 1024


def test_training_that_ends_too_early_says_by_how_much(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

        def on_train_end(self, logs=None):
            self.ended = True  # what is wrong with the network keeps no callback from its end

    model, stop = network(), Stop()
    target = dynhp.Target(flash="16KB")
    hp = dynhp.DynHP(target=target, schedule="linear")
    with pytest.raises(TargetError, match=r"flash is [\d,]+ bytes where 16,384 are allowed") as e:
        model.fit(X, Y, epochs=8, callbacks=[hp, stop], verbose=0)
    assert stop.ended
    report = dynhp.export_tflite(model, str(tmp_path / "m.tflite"), "int8", X)
    assert e.value.missed["flash"][0] == pytest.approx(report.flash_bytes, rel=0.01)
    assert f"{e.value.missed['flash'][0] - 16384:,} " in str(e.value)
    assert e.value.report.ram_bytes == report.ram_bytes
    assert model.count_params() == hp.report.after["params"] < hp.report.before["params"]
    # What there is goes on from there.
    model.fit(X, Y, epochs=4, callbacks=[hp], verbose=0)
    assert hp.report.device["flash_bytes"] <= target.flash


def test_what_cannot_be_proven_is_refused_before_training(monkeypatch):
    class Epochs(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            pytest.fail("training began")

    target = dynhp.Target(flash="30KB", ram="8KB")
    odd = layers.Lambda(lambda t: tf.math.erfinv(t / 100), name="odd_one")
    with pytest.raises(UnsupportedOperatorError, match="Erfinv of layer odd_one"):
        fit(network(odd), target, callbacks=[Epochs()])
    # This one the converter knows; TensorFlow Lite Micro has it for float32 only.
    with pytest.raises(UnsupportedOperatorError, match="operator EXP of layer exp"):
        fit(network(lambda x: keras.ops.exp(-x)), target, callbacks=[Epochs()])
    monkeypatch.setattr(tflm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"keras-dynhp\[device\]"):
        fit(network(), target, callbacks=[Epochs()])


def test_other_targets_are_not_exported(monkeypatch):
    monkeypatch.setattr("keras_dynhp.pruning.proof.convert", lambda *_: pytest.fail("converted"))
    hp = fit(network(), dynhp.Target(compression=2))
    assert hp.report.device is None
