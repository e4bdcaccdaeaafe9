"""What the methods are compared on: a data set, a network, and how small it is to become."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """A row of the comparison.

    Args:
        dataset: a name in `examples.datasets`.
        network: a name in `examples.networks`.
        compression: how many times fewer parameters; or
        fewer_macs: how many times fewer multiply-accumulates.
        prune_inputs: whether methods that can may drop input features.
        at_least: the test accuracy in percent that DynHP must reach, where it is absolute.
        within: the points by which it may fall short of the dense network, where it is relative.
        epochs, batch_size: of the training.
    """

    dataset: str
    network: str
    compression: float | None = None
    fewer_macs: float | None = None
    prune_inputs: bool = False
    at_least: float | None = None
    within: float | None = None
    epochs: int = 20
    batch_size: int = 128

    def limits(self, full_macs: int) -> dict[str, float]:
        """The arguments of `keras_dynhp.Target`."""
        if self.compression is not None:
            return {"compression": self.compression}
        return {"macs": int(full_macs / self.fewer_macs)}

    @property
    def goal(self) -> str:
        """In words."""
        size = (
            f"{self.compression:g}x fewer parameters"
            if self.compression is not None
            else f"{self.fewer_macs:g}x fewer MACs"
        )
        inputs = ", inputs pruned" if self.prune_inputs else ""
        return f"{self.dataset}, {self.network}, {size}{inputs}, {self.epochs} epochs"

    def trains_like(self, other: Workload, goals: tuple[str, ...]) -> bool:
        """Whether a method that of all goals knows only these is run alike on both rows."""
        known = ("dataset", "network", "epochs", "batch_size", *goals)
        return all(getattr(self, name) == getattr(other, name) for name in known)

    @property
    def must(self) -> str:
        """What DynHP must reach, in words."""
        if self.at_least is not None:
            return f"{self.at_least:.1f}% test accuracy"
        return f"within {self.within:g} points of dense"


WORKLOADS = {
    "mnist_lenet300_inputs_10x": Workload(
        "mnist", "lenet_300_100", compression=10, prune_inputs=True, at_least=98.2
    ),
    "mnist_lenet300_inputs_20x": Workload(
        "mnist", "lenet_300_100", compression=20, prune_inputs=True, at_least=97.9
    ),
    "fashion_lenet300_inputs_10x": Workload(
        "fashion_mnist", "lenet_300_100", compression=10, prune_inputs=True, at_least=89.4
    ),
    "fashion_lenet300_inputs_20x": Workload(
        "fashion_mnist", "lenet_300_100", compression=20, prune_inputs=True, at_least=88.6
    ),
    "fashion_lenet300_10x": Workload(
        "fashion_mnist", "lenet_300_100", compression=10, at_least=89.4
    ),
    "mnist_lenet5_100x": Workload("mnist", "lenet_5", compression=100, at_least=99.0),
    "mnist_lenet5_20x": Workload("mnist", "lenet_5", compression=20, within=0.1),
    "fashion_lenet5_20x": Workload("fashion_mnist", "lenet_5", compression=20, within=0.5),
    # Ten epochs: a run of twenty takes a quarter of an hour on two cores.
    "fashion_resnet8_macs4x": Workload(
        "fashion_mnist", "resnet_8", fewer_macs=4, within=0.5, epochs=10
    ),
    # Small data: as many steps as the others need more epochs of smaller batches.
    "spoken_dscnn_macs8x": Workload(
        "spoken_digit", "ds_cnn", fewer_macs=8, within=1.0, epochs=40, batch_size=32
    ),
    "mnist_lenet300_10x": Workload("mnist", "lenet_300_100", compression=10, at_least=97.6),
}
