"""TensorBoard shows what the report shows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dynhp as dynhp


def scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: {
            event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)
        }
        for tag in events.Tags()["tensors"]
        if tag != "keras"  # the network itself, as text
    }


def test_the_same_scalars_as_the_report(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(32, "relu", name="first"),
            keras.layers.Dense(16, "relu", name="second"),
            keras.layers.Dense(2),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    hp = dynhp.DynHP(budget="8MB", target=dynhp.Target(compression=4))
    board = keras.callbacks.TensorBoard(tmp_path)
    model.fit(x, x[:, :2], epochs=4, callbacks=[board, hp], verbose=0)

    ours, keras_own = scalars(tmp_path / "pruning"), scalars(tmp_path / "train")
    assert len(hp.report.epochs) == 4 and hp.report.after["params"] < hp.report.before["params"]
    for epoch in hp.report.epochs:
        number = epoch["epoch"]
        for name, width in epoch["widths"].items():
            assert ours[f"widths/{name}"][number] == width
        for kind, size in epoch["memory"].items():
            assert ours[f"memory/{kind}"][number] == size
        assert ours["memory/budget"][number] == 8 * 2**20
        assert ours["removed"][number] == epoch["removed"]
        for name, value in epoch["logs"].items():
            assert keras_own[f"epoch_{name}"][number] == pytest.approx(value, rel=1e-5), name
    assert set(epoch["logs"]) >= {"learning_rate", "batch_size", "train_memory", "params", "mae"}
