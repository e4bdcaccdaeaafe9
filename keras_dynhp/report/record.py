"""Report: what went, what stayed, and what could not be followed and why."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """The record of a pruning run; prints as a table.

    Attributes:
        before: figures of the full network: parameters, MACs, neurons, widths.
        after: the same of the network as it is now.
        epochs: one dict for each epoch: widths of the groups and everything in the logs.
        kept: groups that could not be pruned, with their reasons.
        barriers: layers through which channels could not be followed, with the reasons.
        notes: what else the user should know.
    """

    before: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    epochs: list[dict] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    barriers: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def begin(self, engine) -> None:
        """Note the full network."""
        self.before = _figures(engine)
        self.after = dict(self.before)
        self.kept = {group.name: group.reason for group in engine.groups.kept}
        self.barriers = dict(engine.groups.barriers)

    def epoch(self, epoch: int, engine, logs: dict) -> None:
        """Note an epoch."""
        numbers = {name: float(value) for name, value in logs.items()}
        self.epochs.append({"epoch": epoch, "widths": engine.widths(), "logs": numbers})
        self.after = _figures(engine)

    def end(self, engine) -> None:
        """Note the final network."""
        self.after = _figures(engine)

    def to_dict(self) -> dict:
        """Plain data for programs."""
        return dict(vars(self))

    def __str__(self) -> str:
        if not self.before:
            return "Nothing to report: no training has begun."
        before, after = self.before, self.after
        lines = [
            f"parameters {before['params']:,} -> {after['params']:,} "
            f"({before['params'] / max(after['params'], 1):.1f}x fewer)",
            f"MACs       {before['macs']:,} -> {after['macs']:,} "
            f"({before['macs'] / max(after['macs'], 1):.1f}x fewer)",
            f"neurons    {before['neurons']:,} -> {after['neurons']:,}",
            "groups:",
        ]
        for name, width in before["widths"].items():
            lines.append(f"  {name:<28} {width:>5} -> {after['widths'].get(name, 1)}")
        if self.kept:
            lines.append("kept whole:")
            lines += [f"  {name:<28} {reason}" for name, reason in self.kept.items()]
        if self.barriers:
            lines.append("barriers:")
            lines += [f"  {name:<28} {reason}" for name, reason in self.barriers.items()]
        return "\n".join(lines + self.notes)

    __repr__ = __str__


def _figures(engine) -> dict:
    from keras_dynhp.costs.macs import count_macs

    return {
        "params": engine.model.count_params(),
        "macs": count_macs(engine.model),
        "neurons": engine.neurons,
        "widths": engine.widths(),
    }
