"""What DynHP costs beside plain `fit`, and what a rebuild costs: `python -m benchmarks.overhead`.

    python -m benchmarks.overhead                            # about ten minutes on two cores
    python -m benchmarks.overhead --rows=idle,idle_xla --pairs=5

Every run is a process of its own; plain `fit` and DynHP take turns, and what is compared are
pairs, so that a machine that becomes slower in between does no harm. Besides seconds by the clock
there are processor seconds, which other programs on the machine change less. Writes overhead.csv
(every run, when it ends) and overhead.md (the table) to `--results`. What the first holds is not
run again: an interrupted command goes on, more `--pairs` are added. Delete it to measure anew.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks.tables import made_by, markdown

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    *("row", "method", "run", "epochs", "wall", "cpu", "epoch_wall", "epoch_cpu"),
    *("rebuild_wall", "rebuild_cpu", "trace_wall", "trace_cpu"),
)
FIGURES = ("wall", "cpu")
MOST_RUNS = {"resnet_50": 1, "resnet_50_xla": 1}  # three minutes each
MOST_IDLE = 0.03  # of an epoch
MOST_SECONDS = {"lenet_5": 1.0, "resnet_50": 5.0}

WORDS = {"cpu": "processor time", "wall": "time by the clock"}

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "rows",
    ["idle", "idle_xla", "lenet_5", "lenet_5_xla", "resnet_50", "resnet_50_xla"],
    "What to measure: idle costs, and rebuilds of networks.",
)
flags.DEFINE_integer("pairs", 3, "How many runs of each; one of ResNet-50.", lower_bound=1)
flags.DEFINE_integer("epochs", 2, "Of each idle run.", lower_bound=2)
flags.DEFINE_string("results", str(ROOT / "benchmarks" / "results"), "The folder for results.")
flags.DEFINE_string("child", "", "Used by the program itself: the run to do, as JSON.")


# ---- in the process of one run -----------------------------------------------------------------


def idle(method: str, xla: bool, epochs: int) -> dict:
    """Fit LeNet-5 on Fashion-MNIST, plainly or beside a DynHP that prunes nothing."""
    from examples.datasets import fashion_mnist

    data = fashion_mnist()
    model, clock = _compiled("lenet_5", xla), _clock()
    never = {"schedule": lambda progress: 0.0, "batch_size": "fixed"}
    ours = [] if method == "plain" else [_dynhp(**never)]
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=128,
        epochs=epochs,
        verbose=0,
        callbacks=[*ours, clock],
    )
    wall, cpu = np.median(np.diff(clock.epochs, axis=0), axis=0)
    return {"epoch_wall": wall, "epoch_cpu": cpu}


def rebuild(network: str, xla: bool) -> dict:
    """Seconds in which half of the parameters go, and those the next step needs to be traced."""
    model, clock = _compiled(network, xla), _clock()
    steps, batch_size = (4, 8) if network == "resnet_50" else (16, 128)
    samples = steps * batch_size
    x = np.random.default_rng(0).random((samples, *model.input_shape[1:]), "float32")
    y = np.arange(samples) % 10
    hp = _dynhp(compression=2, schedule=lambda progress: float(progress > 0.5), batch_size="fixed")
    seconds = []

    class Timed(type(hp)):
        """Its calls at epochs' ends take how long?"""

        def on_epoch_end(self, epoch, logs=None):
            before = model.count_params()
            began = _now()
            super().on_epoch_end(epoch, logs)
            if model.count_params() < before:
                seconds.append(_now() - began)

    hp.__class__ = Timed
    model.fit(x, y, batch_size=batch_size, epochs=3, verbose=0, callbacks=[hp, clock])
    assert len(seconds) == 1, f"one rebuild was expected, seen {len(seconds)}"
    first, *others = np.diff(clock.steps[-1], axis=0)
    trace = first - np.median(others, axis=0)
    parts = {"rebuild": seconds[0], "trace": trace}
    return {f"{part}_{name}": n for part, ns in parts.items() for name, n in zip(FIGURES, ns)}


def _compiled(network: str, xla: bool):
    import keras

    from examples.networks import lenet_5

    keras.utils.set_random_seed(0)
    if network == "lenet_5":
        model = lenet_5()
    else:
        model = keras.applications.ResNet50(
            weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"], jit_compile=xla)
    return model


def _dynhp(compression: float = 4, **options):
    import keras_dynhp as dynhp

    return dynhp.DynHP(target=dynhp.Target(compression=compression), **options)


def _clock():
    import keras

    class Clock(keras.callbacks.Callback):
        """When epochs end (by the clock and by the processor), and when steps begin and end."""

        def __init__(self):
            super().__init__()
            self.epochs, self.steps = [], []

        def on_epoch_begin(self, epoch, logs=None):
            self.steps.append([_now()])

        def on_epoch_end(self, epoch, logs=None):
            self.epochs.append(_now())

    class StepClock(Clock):
        """A call after each step costs something itself, so idle runs do without it."""

        def on_train_batch_end(self, batch, logs=None):
            self.steps[-1].append(_now())

    return (StepClock if "rebuild" in FLAGS.child else Clock)()


def _now() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def child(job: dict) -> dict:
    """Do one run."""
    return {"idle": idle, "rebuild": rebuild}[job.pop("kind")](**job)


# ---- in the program that compares ----------------------------------------------------------------


def run(job: dict) -> dict:
    """Do one run in a process of its own; its whole costs are those of the process.

    Raises:
        RuntimeError: if it fails, with the end of what it printed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.overhead", f"--child={json.dumps(job)}"],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{job} failed:\n{output[-4000:]}")
    whole = {"wall": time.perf_counter() - began, "cpu": usage.ru_utime + usage.ru_stime}
    return {**whole, **json.loads(output.splitlines()[-1])}


def jobs(row: str, epochs: int) -> dict[str, dict]:
    """The runs of a row that take turns, by method."""
    name, xla = row.removesuffix("_xla"), row.endswith("_xla")
    if name == "idle":
        each = {"kind": "idle", "xla": xla, "epochs": epochs}
        return {method: {**each, "method": method} for method in ("plain", "dynhp")}
    return {"dynhp": {"kind": "rebuild", "network": name, "xla": xla}}


def judge(row: str, records: list[dict], epochs: int) -> list[list[str]]:
    """The lines of the table for a row."""
    name, xla = row.removesuffix("_xla"), ", XLA" if row.endswith("_xla") else ""
    mine = {
        method: [
            r
            for r in records
            if (r["row"], r["method"], r["epochs"])
            == (row, method, epochs if name == "idle" else 0)
        ]
        for method in ("plain", "dynhp")
    }
    if name != "idle":
        seconds = {part: np.median([r[part] for r in mine["dynhp"]]) for part in COLUMNS[-4:]}
        most, runs = MOST_SECONDS[name], f"{len(mine['dynhp'])} runs"
        return [
            [
                f"a rebuild of {name}{xla}: {words}",
                f"under {most:g} s",
                f"{seconds[f'rebuild_{figure}']:.2f} s, and {seconds[f'trace_{figure}']:.2f} s for "
                "the next step to be traced",
                runs,
                _yes(seconds[f"rebuild_{figure}"] < most),
            ]
            for figure, words in WORDS.items()
        ]
    lines = []
    for figure, words in WORDS.items():
        epoch = np.median([r[f"epoch_{figure}"] for r in mine["plain"]])
        more = [
            (ours[figure] - plain[figure]) / (epochs * epoch)
            for plain, ours in zip(mine["plain"], mine["dynhp"])
        ]
        steady = [
            ours[f"epoch_{figure}"] / plain[f"epoch_{figure}"] - 1
            for plain, ours in zip(mine["plain"], mine["dynhp"])
        ]
        text = (
            f"whole process {100 * np.median(more):+.1f}% ({100 * min(more):+.1f} to "
            f"{100 * max(more):+.1f}) of {epochs} epochs of {epoch:.1f} s; an epoch after the "
            f"first {100 * np.median(steady):+.1f}%"
        )
        work = f"DynHP that prunes nothing, LeNet-5 on Fashion-MNIST{xla}: {words}"
        pairs = f"{len(more)} pairs"
        holds = _yes(np.median(more) < MOST_IDLE)
        lines.append([work, f"under {MOST_IDLE:.0%} of an epoch", text, pairs, holds])
    return lines


def read(path: Path) -> list[dict]:
    """The runs that a file holds; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {
                name: text
                if name in ("row", "method")
                else int(text)
                if text.isdigit()
                else float(text)
                for name, text in record.items()
                if text
            }
            for record in csv.DictReader(file)
        ]


def write(path: Path, records: list[dict]) -> None:
    """Replace the file in one step."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(records)
    temporary.replace(path)


def _yes(holds) -> str:
    return "yes" if holds else "**no**"


def main(argv):
    if FLAGS.child:
        print(json.dumps(child(json.loads(FLAGS.child))))
        return
    if len(argv) > 1:
        raise app.UsageError(f"Unknown: {argv[1:]}")
    folder = Path(FLAGS.results)
    folder.mkdir(parents=True, exist_ok=True)
    records, lines = read(folder / "overhead.csv"), []
    for row in FLAGS.rows:
        for number in range(min(FLAGS.pairs, MOST_RUNS.get(row, FLAGS.pairs))):
            for method, job in jobs(row, FLAGS.epochs).items():
                key = {"row": row, "method": method, "run": number, "epochs": job.get("epochs", 0)}
                if any(all(r[name] == key[name] for name in key) for r in records):
                    continue
                record = {**key, **run(job)}
                print({k: round(v, 2) if isinstance(v, float) else v for k, v in record.items()})
                records.append(record)
                write(folder / "overhead.csv", records)
        lines += judge(row, records, FLAGS.epochs)
    table = markdown(["work", "must cost", "costs (median)", "of", "holds"], lines)
    (folder / "overhead.md").write_text(f"{made_by('python -m benchmarks.overhead')}\n{table}")
    print(table)


if __name__ == "__main__":
    app.run(main)
