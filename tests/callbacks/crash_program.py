"""A program that trains, is killed at random moments, and goes on each time it is run again.

`python crash_program.py FOLDER arrays|stream KILLS` runs the training to its end once, then KILLS
times until it is killed and once more to its end, and compares the results bit by bit. Each run is
a fork, which saves importing TensorFlow: the parent only imports, it never runs an operation.
"""

import json
import os
import pathlib
import random
import signal
import sys
import threading
import time

import keras
import numpy as np
import tensorflow as tf

import keras_dynhp as dynhp
from keras_dynhp.callbacks import BackupAndRestore, EarlyStopping
from keras_dynhp.rebuild import in_place
from keras_dynhp.saving.files import read_tree

EPOCHS = 5


def train(folder: pathlib.Path, data: str) -> None:
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 2)) + np.sin(3 * x[:, :1])).astype("float32")
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(16, "relu")(inputs)
    hidden = keras.layers.Dropout(0.2)(hidden)
    hidden = keras.layers.Dense(12, "relu")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    hp = dynhp.DynHP(
        target=dynhp.Target(compression=4),
        schedule="linear",
        batch_size="dynamic",
    )
    callbacks = [
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=0.2),
        EarlyStopping("val_loss", patience=20, restore_best_weights=True),
        hp,
        BackupAndRestore(folder / "backup", delete_checkpoint=False),
        # Something of the user's draws from the generators that the process shares.
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: logs.update(
                drawn=random.random() + np.random.rand() + float(keras.random.uniform(()))
            )
        ),
    ]
    options = {"epochs": EPOCHS, "verbose": 0, "callbacks": callbacks, "validation_data": (x, y)}
    if data == "arrays":
        history = model.fit(x, y, batch_size=16, **options)
    else:
        stream = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(96, seed=3).batch(16)
        history = model.fit(stream, shuffle=False, **options)
    values = [np.asarray(variable).tolist() for variable in model.weights]
    result = {
        "history": {key: [float(v) for v in series] for key, series in history.history.items()},
        "epochs": history.epoch,
        "weights": values,
        "slots": [np.asarray(v).tolist() for v in model.optimizer.variables],
        "widths": hp.report.epochs[-1]["widths"],
        "reported": [entry["epoch"] for entry in hp.report.epochs],
    }
    (folder / "result.json").write_text(json.dumps(result))


def kill_at(place: str) -> None:
    """Have the process killed at a random one of its saves or rebuilds, half-way through it."""

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    left = random.SystemRandom().randint(1, {"save": 4, "rebuild": 12}[place])
    module, name = {"save": (os, "fsync"), "rebuild": (in_place, "release_variable")}[place]
    own = getattr(module, name)

    def counted(*args):
        nonlocal left
        left -= 1
        if left == 0:
            die()
        return own(*args)

    setattr(module, name, counted)


def run(folder: pathlib.Path, data: str, kill: str | float | None = None) -> tuple[bool, float]:
    """Train in a child. Returns whether it was killed, and the seconds it took.

    `kill` is a place, or the seconds after which it is killed.
    """
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if isinstance(kill, str):
                kill_at(kill)
            train(folder, data)
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    timer = None
    if isinstance(kill, float):
        timer = threading.Timer(kill, os.kill, (child, signal.SIGKILL))
        timer.start()
    _, status = os.waitpid(child, 0)
    if timer is not None:
        timer.cancel()
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        sys.exit("the training failed")
    return os.WIFSIGNALED(status), time.monotonic() - begin


def finish(folder: pathlib.Path, data: str) -> None:
    """Let the killed run end, and compare it with the one that was never killed."""
    run(folder / "killed", data)
    whole, killed = (
        json.loads((folder / name / "result.json").read_text()) for name in ("whole", "killed")
    )
    for key in whole:
        if whole[key] != killed[key]:
            sys.exit(f"{key} differ:\n{whole[key]}\n{killed[key]}")


def main(folder: pathlib.Path, data: str, kills: int) -> None:
    backup = folder / "killed" / "backup" / "backup.npz"
    for name in ("whole", "killed"):
        (folder / name).mkdir()
    _, seconds = run(folder / "whole", data)
    at = np.random.default_rng()
    epochs = []
    while sum(killed for _, killed, _ in epochs) < kills:
        # Every fifth in the middle of a save, every fifth of a rebuild, the others at any moment.
        place = ["save", "rebuild", None, None, None][len(epochs) % 5]
        kill = place or float(seconds * at.random())
        killed, _ = run(folder / "killed", data, kill)
        # Whenever there is a backup it can be read.
        epochs.append([kill, killed, read_tree(backup)["epoch"] if backup.exists() else None])
        if epochs[-1][-1] == EPOCHS - 1:
            finish(folder, data)
            backup.unlink()  # begin again for the kills that are left
    finish(folder, data)
    print(json.dumps(epochs))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
