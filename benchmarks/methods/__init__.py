"""The methods that are compared: one module each, with a `train(job, data) -> dict`."""

from __future__ import annotations

from dataclasses import dataclass, field

_REPORTING = {"TF_CPU_ALLOCATOR_USE_BFC": "1"}
_SIZE = ("compression", "fewer_macs")


@dataclass(frozen=True)
class Method:
    """How a method is run.

    Args:
        title: for tables and plots.
        module: the module in `benchmarks.methods`.
        options: what distinguishes it from others in that module.
        env: what its process needs in its environment.
        after: the methods of the same row and seed whose results it needs to know.
        dense: the method that is the full network in the same framework.
        goals: what it knows of a row's goals; rows that agree in them share its runs.
    """

    title: str
    module: str
    options: dict = field(default_factory=dict)
    env: dict = field(default_factory=lambda: dict(_REPORTING))
    after: tuple[str, ...] = ()
    dense: str = "dense"
    goals: tuple[str, ...] = (*_SIZE, "prune_inputs")


METHODS = {
    "dense": Method("dense", "dense", goals=()),
    "dynhp": Method("DynHP (defaults: cabs batch)", "dynhp", {"batch_size": "dynamic"}),
    "dynhp_memory": Method("DynHP, memory batch", "dynhp", {"batch_size": "memory"}),
    "dynhp_fixed": Method("DynHP, fixed batch", "dynhp", {"batch_size": "fixed"}),
    "static": Method("static, all layers narrowed alike", "static", goals=_SIZE),
    "static_widths": Method(
        "static, the widths that DynHP found", "static_widths", after=("dynhp_fixed",)
    ),
    "tfmot": Method(
        "TFMOT prune_low_magnitude",
        "tfmot",
        env={**_REPORTING, "TF_USE_LEGACY_KERAS": "1"},
        after=("dense", "dynhp_fixed"),
    ),
    "prune_finetune": Method("train, prune, fine-tune", "prune_finetune", goals=_SIZE),
    "torch_dense": Method("PyTorch, dense", "torch_dense", env={}, dense="torch_dense", goals=()),
    "torch_pruning": Method(
        "Torch-Pruning, Taylor",
        "torch_pruning",
        {"importance": "GroupTaylorImportance"},
        env={},
        dense="torch_dense",
        goals=_SIZE,
    ),
    "torch_pruning_magnitude": Method(
        "Torch-Pruning, magnitude",
        "torch_pruning",
        {"importance": "GroupMagnitudeImportance"},
        env={},
        dense="torch_dense",
        goals=_SIZE,
    ),
}
