"""Ideas for the method, tried in NumPy on LeNet-300-100: `python -m benchmarks.sketch`.

    python -m benchmarks.sketch --rows=mnist_inputs_10x --variants=as_it_is,fold --seeds=4

The method as the library has it and what it could have instead, in so little code that a run takes
seconds and many seeds can be had. Judged on the validation split; the test set stays unseen. Runs
what isn't in results/sketch.csv yet, and writes sketch.md from it.
"""

from __future__ import annotations

import csv
import itertools
import math
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

# A run has one thread; several run side by side. NumPy reads this when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from absl import app, flags

from benchmarks.sketch_gates import GATES
from benchmarks.tables import by_variant, made_by

RESULTS = Path(__file__).resolve().parent / "results"
COLUMNS = ("row", "variant", "seed", "accuracy", "training_accuracy", "widths")
BATCH, RATE, EPOCHS = 128, 2e-3, 20
BETA_1, BETA_2 = 0.9, 0.999
READERS = (0, 2, 4)  # where in the list of weights lies what reads inputs and hidden layers
# The kernels whose norms count for inputs and hidden neurons, and the axes to sum over.
MAKERS = ((0, 1), (0, 0), (2, 0))
LASSO = 0.25  # the share of group lasso in the first loss
TELLING = 4000  # samples that tell how neurons that go are made up for


@dataclass(frozen=True)
class Method:
    """The method's parts.

    Args:
        compression: how many times fewer parameters.
        inputs: whether input features may go.
        start, end: of the cubic schedule, as shares of the training.
        criterion: what a neuron is worth: "taylor" (its gate), "magnitude" (of its own weights),
            "random", "lasso" (magnitude, with group lasso), or a name in `sketch_gates.GATES`.
        gate: what of a gate's gradient is averaged.
        rates: power of a variable's shrinkage by which its learning rate grows.
        cost: power of what a neuron costs, by which its score is divided.
        trial: whether what is due fades for an epoch first.
        made_up: what neurons that go leave behind: "" (nothing), "mean" (their mean goes into the
            biases they fed), "fit" (their least-squares fit by the neurons that stay).
        dropout: of hidden neurons, while training.
        decay: decoupled weight decay, relative to the learning rate.
        widths: of the hidden layers.
        epochs: of training.
        average: the share of the training, its last, over whose steps weights are averaged.
    """

    compression: float = 10
    inputs: bool = False
    start: float = 0.1
    end: float = 0.5
    criterion: str = "taylor"
    gate: Callable = np.square
    rates: float = 0.5
    cost: float = 1.0
    trial: bool = True
    made_up: str = ""
    dropout: float = 0.0
    decay: float = 0.0
    widths: tuple[int, int] = (300, 100)
    epochs: int = EPOCHS
    average: float = 0.0


ROWS = {
    "fashion_10x": ("fashion_mnist", {}),
    "fashion_inputs_10x": ("fashion_mnist", {"inputs": True}),
    "mnist_inputs_10x": ("mnist", {"inputs": True}),
    "mnist_inputs_20x": ("mnist", {"inputs": True, "compression": 20}),
}


@dataclass(frozen=True)
class Variant:
    """The method with something changed; `title` is for the table."""

    title: str
    changes: dict = field(default_factory=dict)


VARIANTS = {
    "as_it_is": Variant("as it is"),
    "magnitude": Variant("scores by magnitude", {"criterion": "magnitude"}),
    "random": Variant("scores at random", {"criterion": "random"}),
    "lasso": Variant(
        "group lasso until the target, scores by magnitude (PruneTrain)", {"criterion": "lasso"}
    ),
    "l0": Variant("hard-concrete gates until the target, scores by them (L0)", {"criterion": "l0"}),
    "relevance": Variant(
        "noisy gates until the target, scores by their relevance (VIBNet)",
        {"criterion": "relevance"},
    ),
    "absolute": Variant("mean of |gate gradient| rather than of its square", {"gate": np.abs}),
    "fold": Variant("what goes leaves its mean in the biases it fed", {"made_up": "mean"}),
    "fit": Variant("what goes is fitted by what stays (least squares)", {"made_up": "fit"}),
    "no_trial": Variant("no trial", {"trial": False}),
    "no_trial_fit": Variant("no trial, least squares", {"trial": False, "made_up": "fit"}),
    "early": Variant("pruned from 5% to 30% of the epochs", {"start": 0.05, "end": 0.3}),
    "late": Variant("pruned from 10% to 80% of the epochs", {"end": 0.8}),
    "cost_root": Variant("score over the root of what a neuron costs", {"cost": 0.5}),
    "cost_more": Variant("score over cost to the power of 1.5", {"cost": 1.5}),
    "cost_square": Variant("score over the square of what a neuron costs", {"cost": 2.0}),
    "rates_kept": Variant("learning rates stay", {"rates": 0.0}),
    "rates_full": Variant("learning rates grow in proportion", {"rates": 1.0}),
    "dropout": Variant("5% dropout of hidden neurons", {"dropout": 0.05}),
    "decay": Variant("weight decay of 0.3", {"decay": 0.3}),
    "average": Variant("weights averaged over the last 30% of the steps", {"average": 0.3}),
    "dense": Variant("the full network", {"compression": 1}),
    "static": Variant("784-30-66 from the start", {"compression": 1, "widths": (30, 66)}),
    "static_long": Variant(
        "784-30-66 from the start, 60 epochs",
        {"compression": 1, "widths": (30, 66), "epochs": 60},
    ),
}


class Network:
    """784-h1-h2-10 with ReLU, Adam, and the running means of its gates."""

    def __init__(self, method: Method, random: np.random.Generator):
        self.method = method
        dims = (784, *method.widths, 10)
        self.weights = []
        for fan_in, fan_out in itertools.pairwise(dims):
            limit = math.sqrt(6 / (fan_in + fan_out))
            self.weights.append(random.uniform(-limit, limit, (fan_in, fan_out)).astype("float32"))
            self.weights.append(np.zeros(fan_out, "float32"))
        self.means = [np.zeros_like(w) for w in self.weights]
        self.squares = [np.zeros_like(w) for w in self.weights]
        self.full = [w.size for w in self.weights]
        self.gates = [np.zeros(n) for n in dims[:3]]
        make = GATES.get(method.criterion)
        first = 0 if method.inputs else 1
        self.learned = [make(n) if make and i >= first else None for i, n in enumerate(dims[:3])]
        self.lasso = 0.0
        self.inputs = np.arange(784)
        self.steps = 0

    @property
    def widths(self) -> list[int]:
        """Inputs and hidden neurons."""
        return [self.weights[i].shape[0] for i in READERS]

    def hidden(self, x) -> tuple[np.ndarray, np.ndarray]:
        """Both hidden layers."""
        w = self.weights
        first = np.maximum(x @ w[0] + w[1], 0)
        return first, np.maximum(first @ w[2] + w[3], 0)

    def accuracy(self, x, y) -> float:
        """In percent."""
        logits = self.hidden(x[:, self.inputs])[1] @ self.weights[4] + self.weights[5]
        return 100 * float((logits.argmax(1) == y).mean())

    def step(self, x, y, rate: float, random, keep) -> int:
        """One update; returns how many samples were classified rightly."""
        w, m = self.weights, self.method
        kernels = [w[i] for i in READERS]
        scales = [gate.sample(random) if gate else None for gate in self.learned]
        for i, scale in zip(READERS, scales):
            if scale is not None:
                w[i] = scale[:, None] * w[i]
        first, second = self.hidden(x)
        drops = None
        if m.dropout:
            stay = np.float32(1 - m.dropout)
            drops = [
                (random.random(h.shape, dtype="float32") < stay) / stay for h in (first, second)
            ]
            first = first * drops[0]
            second = np.maximum(first @ w[2] + w[3], 0) * drops[1]
        logits = second @ w[4] + w[5]
        odds = np.exp(logits - logits.max(1, keepdims=True))
        delta = odds / odds.sum(1, keepdims=True)
        odds_of_truth = delta[np.arange(len(y)), y] + 1e-30
        delta[np.arange(len(y)), y] -= 1
        delta /= len(y)
        back_2 = (delta @ w[4].T) * (second > 0) * (drops[1] if drops else 1)
        back_1 = (back_2 @ w[2].T) * (first > 0) * (drops[0] if drops else 1)
        gradients = [
            *(x.T @ back_1, back_1.sum(0), first.T @ back_2, back_2.sum(0)),
            *(second.T @ delta, delta.sum(0)),
        ]
        self.steps += 1
        bias_1, bias_2 = 1 - BETA_1**self.steps, 1 - BETA_2**self.steps
        for i, kernel, scale, gate in zip(READERS, kernels, scales, self.learned):
            w[i] = kernel
            if gate:
                gate.learn((kernel * gradients[i]).sum(1), rate)
                gradients[i] *= scale[:, None]
        if m.criterion == "lasso":
            self._add_lasso(gradients, loss=-float(np.log(odds_of_truth).mean()))
        share = max(0.01, 1 / self.steps)
        for gate, i in zip(self.gates, READERS):
            gate += share * (m.gate((w[i] * gradients[i]).sum(1)) - gate)
        for i, gradient in enumerate(gradients):
            self.means[i] += (1 - BETA_1) * (gradient - self.means[i])
            self.squares[i] += (1 - BETA_2) * (np.square(gradient) - self.squares[i])
            mine = rate * (self.full[i] / w[i].size) ** m.rates
            if m.decay and w[i].ndim == 2:
                w[i] *= 1 - m.decay * mine
            w[i] -= (mine / bias_1) * self.means[i] / (np.sqrt(self.squares[i] / bias_2) + 1e-7)
        for i, factor in keep:
            w[i] *= factor
        return int((logits.argmax(1) == y).sum())

    def _add_lasso(self, gradients, loss: float) -> None:
        """The gradients of the norms of neurons, weighed such that they are a share of the loss."""
        if self.lasso is None:
            return
        groups = MAKERS[0 if self.method.inputs else 1 :]
        norms = [np.sqrt(np.square(self.weights[i]).sum(a, keepdims=True)) for i, a in groups]
        if not self.lasso:
            self.lasso = LASSO / (1 - LASSO) * loss / sum(float(n.sum()) for n in norms)
        for (i, _), norm in zip(groups, norms):
            gradients[i] += np.float32(self.lasso) * self.weights[i] / (norm + 1e-12)

    def scores(self, random) -> list[np.ndarray]:
        """What inputs and hidden neurons are worth."""
        criterion = self.method.criterion
        if criterion == "random":
            return [random.random(n) for n in self.widths]
        if criterion in ("magnitude", "lasso"):
            norms = [np.square(self.weights[i]).sum(axis) for i, axis in MAKERS]
            return [norm / norm.sum() for norm in norms]
        return [
            gate.score() if gate else mean.copy() for gate, mean in zip(self.learned, self.gates)
        ]

    def settle(self) -> None:
        """The target is reached: what was only there to choose neurons goes."""
        for i, gate in zip(READERS, self.learned):
            if gate:
                self.weights[i] *= gate.settled()[:, None]
        self.learned, self.lasso = [None] * 3, None

    def choose(self, scores, goal: float) -> list[np.ndarray]:
        """Masks of what stays: the least score per cost goes first, until the size is the goal."""
        order = [np.argsort(score, kind="stable") for score in scores]
        now, widths = self.widths, list(self.widths)
        groups = range(0 if self.method.inputs else 1, 3)
        while _size(widths) > goal:
            cost = (widths[1], widths[0] + 1 + widths[2], widths[1] + 11)
            left = [g for g in groups if widths[g] > 1]
            least = [scores[g][order[g][now[g] - widths[g]]] for g in left]
            worst = min(zip(left, least), key=lambda x: x[1] / cost[x[0]] ** self.method.cost)[0]
            widths[worst] -= 1
        masks = [np.ones(n, bool) for n in now]
        for mask, ranks, width in zip(masks, order, widths):
            mask[ranks[: len(mask) - width]] = False
        return masks

    def make_up(self, x, masks) -> None:
        """Let what stays do what neurons that go have done."""
        x = x[:TELLING][:, self.inputs]
        for group, values in enumerate((x, *self.hidden(x))):
            stays, reader = masks[group], READERS[group]
            if stays.all():
                continue
            kernel, bias = self.weights[reader], self.weights[reader + 1]
            if self.method.made_up == "mean":
                bias += values[:, ~stays].mean(0) @ kernel[~stays]
            elif group:
                known = np.c_[values[:, stays], np.ones(len(values))].astype(float)
                ridge = 1e-5 * len(values) * np.eye(known.shape[1])
                found = np.linalg.solve(known.T @ known + ridge, known.T @ values[:, ~stays])
                kernel[stays] += (found[:-1] @ kernel[~stays]).astype("float32")
                bias += (found[-1] @ kernel[~stays]).astype("float32")

    def shrink(self, masks) -> None:
        """Remove what a mask doesn't keep, from weights and moments."""
        inputs, first, second = masks
        kept = ((inputs, first), (first,), (first, second), (second,), (second,), ())
        for arrays in (self.weights, self.means, self.squares):
            for i, axes in enumerate(kept):
                for axis, mask in enumerate(axes):
                    arrays[i] = np.compress(mask, arrays[i], axis)
        self.gates = [gate[mask] for gate, mask in zip(self.gates, masks)]
        for gate, mask in zip(self.learned, masks):
            if gate:
                gate.shrink(mask)
        self.inputs = self.inputs[inputs]


def _size(widths) -> int:
    inputs, first, second = widths
    return inputs * first + first + first * second + second + second * 10 + 10


def train(method: Method, data, seed: int) -> tuple[Network, float]:
    """The network that a run ends with, and its training accuracy in the last epoch."""
    random = np.random.default_rng(seed)
    network = Network(method, random)
    full, worth = _size(network.widths), None
    sums, summed = None, 0
    steps = -(-len(data.x_train) // BATCH)

    def goal(epochs_done: int) -> float:
        t = (epochs_done / method.epochs - method.start) / (method.end - method.start)
        fraction = 1 - (1 - min(1.0, max(0.0, t))) ** 3
        return full - fraction * (full - full / method.compression)

    for epoch in range(method.epochs):
        rate = RATE * 0.5 * (1 + math.cos(math.pi * (epoch + 0.5) / method.epochs))
        due = goal(epoch + 1)
        if epoch >= method.end * method.epochs:
            network.settle()
        on_trial, before = None, []
        if method.trial and worth is not None and _size(network.widths) > due:
            on_trial = network.choose(worth, due)
            before = [network.weights[i].copy() for i in READERS]
        fading = [
            (i, np.where(mask, 1, math.exp(-5 / steps)).astype("float32")[:, None])
            for i, mask in zip(READERS, on_trial or ())
            if not mask.all()
        ]
        order, right = random.permutation(len(data.x_train)), 0
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            x = data.x_train[rows]
            x = x if len(network.inputs) == 784 else x[:, network.inputs]
            right += network.step(x, data.y_train[rows], rate, random, fading)
            if epoch >= (1 - method.average) * method.epochs:
                sums = [s + w for s, w in zip(sums or itertools.repeat(0.0), network.weights)]
                summed += 1
        worth = network.scores(random)
        if _size(network.widths) <= due:
            continue
        masks = network.choose(worth, due)
        if method.trial and epoch + 1 < method.end * method.epochs:
            masks = [
                m | (True if on_trial is None else t) for m, t in zip(masks, on_trial or masks)
            ]
        for i, mask, tried, values in zip(READERS, masks, on_trial or (), before):
            network.weights[i][mask & ~tried] = values[mask & ~tried]
        if method.made_up:
            network.make_up(data.x_train, masks)
        network.shrink(masks)
        worth = [score[mask] for score, mask in zip(worth, masks)]
    if summed:
        network.weights = [np.float32(s / summed) for s in sums]
    return network, 100 * right / len(data.x_train)


_data: dict = {}


def run(row: str, variant: str, seed: int) -> dict:
    """One run, as a line of the file."""
    from examples.datasets import DATASETS

    dataset, changes = ROWS[row]
    if dataset not in _data:
        data = DATASETS[dataset]().validation()
        flat = {n: getattr(data, n).reshape(-1, 784) for n in ("x_train", "x_test")}
        _data[dataset] = replace(data, **flat)
    data = _data[dataset]
    network, training = train(Method(**{**changes, **VARIANTS[variant].changes}), data, seed)
    accuracy = network.accuracy(data.x_test, data.y_test)
    widths = "-".join(map(str, network.widths))
    figures = (round(accuracy, 2), round(training, 2), widths)
    return dict(zip(COLUMNS, (row, variant, seed, *figures)))


def table(records: list[dict]) -> str:
    """Markdown: a line for each variant, a column for each row, mean and standard error."""

    def cell(runs: list[dict]) -> str:
        found = np.array([float(r["accuracy"]) for r in runs])
        error = f" ± {found.std(ddof=1) / len(found) ** 0.5:.2f}" if len(found) > 1 else ""
        training = np.mean([float(r["training_accuracy"]) for r in runs])
        return f"{found.mean():.2f}{error} ({len(found)}; {training:.1f})"

    titles = {name: variant.title for name, variant in VARIANTS.items()}
    return (
        "Validation accuracy in percent: mean ± standard error (seeds; training accuracy in the "
        "last epoch).\n\n" + by_variant(records, list(ROWS), titles, cell)
    )


def main(argv):
    """Run what is missing, then write."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    path = RESULTS / "sketch.csv"
    records = list(csv.DictReader(path.open())) if path.exists() else []
    done = {tuple(str(r[name]) for name in COLUMNS[:3]) for r in records}
    wanted = [
        (row, variant, seed)
        for seed in range(flags.FLAGS.seeds)
        for variant in flags.FLAGS.variants
        for row in flags.FLAGS.rows
        if (row, variant, str(seed)) not in done
    ]
    context = multiprocessing.get_context("spawn")
    with context.Pool(flags.FLAGS.processes) as pool:
        for record in pool.imap_unordered(_run, wanted):
            print(record, flush=True)
            records.append(record)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(records)
    made = made_by("python -m benchmarks.sketch", "numpy")
    (RESULTS / "sketch.md").write_text(f"{made}\n{table(records)}")


def _run(job) -> dict:
    return run(*job)


if __name__ == "__main__":
    flags.DEFINE_list("rows", list(ROWS), "Which rows.")
    flags.DEFINE_list("variants", list(VARIANTS), "Which variants.")
    flags.DEFINE_integer("seeds", 4, "How many seeds.", lower_bound=1)
    flags.DEFINE_integer("processes", 2, "How many run side by side.", lower_bound=1)
    app.run(main)
