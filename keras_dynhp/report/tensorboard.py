"""What a report draws, as scalars for TensorBoard."""

from __future__ import annotations

import os

import tensorflow as tf

RUN = "pruning"  # beside Keras's own runs, "train" and "validation"


class Scalars:
    """Writes the widths of groups, the removed neurons and the memory by kind of each epoch.

    What is in the epochs' logs (`neurons`, `params`, `batch_size`, `train_memory`, metrics, the
    learning rate), Keras's own `TensorBoard` callback writes.

    Args:
        log_dir: that of Keras's callback.
    """

    def __init__(self, log_dir: str | os.PathLike):
        self._writer = tf.summary.create_file_writer(os.path.join(log_dir, RUN))

    def write(self, epoch: dict, budget: int | None = None) -> None:
        """Write one epoch of a `Report`, and the budget it had."""
        found = {f"widths/{name}": width for name, width in epoch["widths"].items()}
        found["removed"] = epoch["removed"]
        found |= {f"memory/{kind}": size for kind, size in (epoch["memory"] or {}).items()}
        if budget is not None:
            found["memory/budget"] = budget
        with self._writer.as_default(step=epoch["epoch"]):
            for name, value in found.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def close(self) -> None:
        """No more epochs will come."""
        self._writer.close()
