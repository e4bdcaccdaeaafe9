"""Random architectures, random masks: is the rebuilt model the masked model?

    python -m benchmarks.random_graphs --count=2000

Draws graphs from the blocks of random_blocks.py (branches, merges, shared layers, models inside
models, several inputs and outputs), masks half of every group, and compares in float64, so that
even a small mistake is far above rounding. Writes benchmarks/results/random_graphs.json as it
goes, and goes on where an earlier run was interrupted, what failed first (delete the file to start
again); exits with 1 if any graph failed, naming the seeds, which `--seed` repeats one by one.
"""

from __future__ import annotations

import argparse
import collections
import gc
import json
import pathlib
import sys
import time
import traceback
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import keras_dynhp as dynhp
from benchmarks.exactness import (
    check,
    difference,
    masked_in_place,
    outputs_of,
    random_inputs,
)
from benchmarks.random_blocks import BLOCKS
from benchmarks.tables import made_by
from keras_dynhp.rebuild.masked import smaller_copy
from keras_dynhp.rebuild.plan import plan_rebuild

RESULTS = pathlib.Path(__file__).parent / "results" / "random_graphs.json"
TOLERANCE = 1e-9
PIECE = 25  # graphs between two writings of the results
INPUTS = [(6, 6, 3), (5, 4), (7,)]


class Drawing:
    """A graph that is being drawn: the tensors so far, and the layers made so far."""

    def __init__(self, choose: Callable[[int], int]):
        self.choose = choose  # n -> a number below n
        self.tensors: list[keras.KerasTensor] = []
        self.read: set[int] = set()
        self.made: list[tuple[Callable, tuple, str]] = []
        self.names: list[str] = []

    def pick(self, options: list):
        return options[self.choose(len(options))]

    def partner(self, tensor, **same):
        """Another tensor of the same shape, or None."""
        others = [x for x in self.tensors if x.shape == tensor.shape and x is not tensor]
        return self.pick(others) if others else None


def draw(choose: Callable[[int], int], most: int = 8) -> tuple[keras.Model, list[str]]:
    """A random model, and the names of its blocks. `choose(n)` gives a number below n."""
    drawing = Drawing(choose)
    inputs = [keras.Input(drawing.pick(INPUTS)) for _ in range(1 + (choose(4) == 0))]
    drawing.tensors = list(inputs)
    for _ in range(2 + choose(most - 1)):
        # The newest tensors are more likely to be read, so that graphs become deep.
        tensor = drawing.tensors[-1 - min(choose(len(drawing.tensors)), choose(3))]
        rank = len(tensor.shape)
        blocks = [(name, block) for name, (ranks, block) in BLOCKS.items() if rank in ranks]
        name, block = drawing.pick(blocks)
        result = _nested(block, drawing, tensor) if choose(8) == 0 else block(drawing, tensor)
        if result is None:
            continue
        drawing.read.add(id(tensor))
        drawing.names.append(name)
        drawing.tensors.append(result)
    ends = [x for x in drawing.tensors if id(x) not in drawing.read] or [drawing.tensors[-1]]
    outputs = [_end(drawing, x) for x in ends]
    return keras.Model(inputs, outputs), drawing.names


def _nested(block, drawing, tensor):
    """The block as a model inside the model; one that needs other tensors can't be."""
    inside = Drawing(drawing.choose)
    start = keras.Input(tensor.shape[1:], dtype=tensor.dtype)
    inside.tensors = [start]
    result = block(inside, start)
    return None if result is None else keras.Model(start, result)(tensor)


def _end(drawing, x):
    if len(x.shape) > 2:
        x = keras.layers.Flatten()(x)
    if drawing.choose(4):
        x = keras.layers.Dense(4, activation="relu")(x)
        x = keras.layers.Dense(2)(x)
    return x


def examine(model: keras.Model, seed: int, prune_inputs: bool) -> dict:
    """Mask, rebuild, compare; raises AssertionError where they differ."""
    found = check(model, prune_inputs=prune_inputs, seed=seed)
    groups = found.groups
    if not found.copy_error <= TOLERANCE:
        raise AssertionError(f"The masked copy differs by {found.copy_error:.1e}.")
    if not found.error <= TOLERANCE:
        raise AssertionError(f"The rebuilt model differs by {found.error:.1e}.")
    if len(groups) and not found.small.count_params() < found.masked.count_params():
        raise AssertionError("Nothing became smaller.")
    json.dumps(groups.to_dict())
    if seed % 2:
        _examine_weight_space(model, groups, seed)
    elif dynhp.rebuild(found.small).count_params() != found.small.count_params():
        raise AssertionError("Rebuilding a rebuilt model changed it.")
    telling = found.spread > 1e-6
    return {"groups": len(groups), "barriers": len(groups.barriers), "telling": telling}


def _examine_weight_space(model, groups, seed: int) -> None:
    """Zeroing the weights that read neurons is masking them, where all reads have weights."""
    random = np.random.default_rng(seed)
    weightless = {n for v in groups.trace.weightless_reads for n in groups.neurons_of(v)}
    gathered = {n for g in groups.trace.gathers.values() for n in groups.neurons_of(g.vector)}
    keep = {}
    for number, group in enumerate(groups):
        if number not in weightless | gathered:
            mask = random.random(group.size) < 0.6
            mask[random.integers(group.size)] = True
            keep[group.name] = mask
    inputs = random_inputs(model, seed=seed + 5)
    plan = plan_rebuild(groups, groups.survivors(keep))
    small = smaller_copy(plan)
    masked_in_place(model, groups, keep)
    error = difference(outputs_of(model, inputs), outputs_of(small, inputs))
    if not error <= TOLERANCE:
        raise AssertionError(f"Masking in weight space differs by {error:.1e}.")


def run_seed(seed: int) -> dict:
    """Draw and examine the graph of one seed."""
    random = np.random.default_rng(seed)
    if seed % PIECE == 0:
        keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model, names = draw(lambda n: int(random.integers(n)))
    return {**examine(model, seed, bool(random.integers(2))), "blocks": names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="how many graphs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="repeat one seed and show its error")
    flags = parser.parse_args()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    if flags.seed is not None:
        print(run_seed(flags.seed))
        return 0
    tf.config.threading.set_intra_op_parallelism_threads(1)  # tensors are tiny
    tf.config.threading.set_inter_op_parallelism_threads(1)
    gc.freeze()  # what TensorFlow and Keras are made of need not be looked through for garbage
    done = _earlier(flags.first)
    blocks = collections.Counter(done["blocks"])
    again = [int(seed) for seed in done["failed"]]  # perhaps mended since
    done["failed"] = {}
    done["graphs"] -= len(again)
    last = flags.first + flags.count - 1
    for seed in [*again, *range(flags.first + done["graphs"] + len(again), last + 1)]:
        start = time.process_time()
        try:
            row = run_seed(seed)
            blocks.update(row["blocks"])
            for key in ("groups", "barriers", "telling"):
                done[key] += row[key]
        except Exception as error:
            done["failed"][str(seed)] = f"{type(error).__name__}: {error}"[:300]
            print(seed, done["failed"][str(seed)], flush=True)
            traceback.print_exc(limit=-2)
        done["graphs"] += 1
        done["seconds"] += time.process_time() - start
        if done["graphs"] % PIECE == 0 or seed == last:
            done["blocks"] = dict(blocks.most_common())
            RESULTS.parent.mkdir(exist_ok=True)
            done["made_by"] = made_by("python -m benchmarks.random_graphs").strip()
            RESULTS.write_text(json.dumps(done, indent=2) + "\n")
    print(
        f"{done['graphs']} graphs, {len(done['failed'])} failed, {done['groups']} groups, "
        f"{done['seconds']:.0f} s of the processor"
    )
    return 1 if done["failed"] else 0


def _earlier(first: int) -> dict:
    """What was found so far by a run that began with the same seed."""
    nothing = {
        "graphs": 0,
        "first_seed": first,
        "failed": {},
        "groups": 0,
        "barriers": 0,
        "telling": 0,  # graphs whose masked outputs depend on the data
        "tolerance": TOLERANCE,
        "seconds": 0.0,
        "blocks": {},
    }
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else nothing
    return earlier if earlier["first_seed"] == first else nothing


if __name__ == "__main__":
    sys.exit(main())
