"""What the federated runs came to, as Markdown."""

from __future__ import annotations

import numpy as np

from benchmarks.tables import MB, made_by, markdown

# Share of the rounds over which the last accuracies are averaged: single ones differ by half a
# point.
LAST = 0.25


def page(records: list[dict]) -> str:
    """A table for each kind of run there is."""
    tables = {
        "Ten clients, LeNet-5 on Fashion-MNIST (Dirichlet 0.3)": accuracy(records),
        "A client and the server killed": faults(records),
        "Plain training of the full network under a cap of TensorFlow's allocator": caps(records),
        "Many clients, a tiny network, Flower's simulation engine": scale(records),
    }
    made = made_by("python -m benchmarks.federated", "flwr", "ray")
    return made + "".join(f"\n### {title}\n\n{table}" for title, table in tables.items() if table)


def accuracy(records: list[dict]) -> str:
    """Runs judged on the test set; bytes beside those of FedAvg with as many rounds."""
    runs = [r for r in records if r["case"] == "accuracy" and r.get("split", "test") == "test"]
    runs.sort(key=lambda r: (r["images"], r["rounds"], r["method"] != "fedavg", len(r["budgets"])))
    plain = {(r["images"], r["rounds"]): r["bytes"] for r in runs if r["method"] == "fedavg"}
    lines = []
    for run in runs:
        share = run["bytes"] / plain.get((run["images"], run["rounds"]), np.nan)
        lines.append(
            [
                "FedAvg, full network" if run["method"] == "fedavg" else "DynHPStrategy, 10x",
                ", ".join(run["budgets"]) or "none",
                f"{run['images']:,}",
                str(run["rounds"]),
                f"{100 * run['accuracy']:.2f}",
                last(run),
                f"{run['params']:,}",
                f"{run['bytes'] / MB:,.0f}" + ("" if np.isnan(share) else f" ({share:.2f})"),
            ]
        )
    header = ["method", "budgets", "images", "rounds", "test accuracy, %"]
    header += ["mean of the last quarter of rounds", "parameters", "MB on the wire (of FedAvg's)"]
    return markdown(header, lines) if lines else ""


def last(run: dict) -> str:
    """The mean accuracy of the last rounds, in percent."""
    count = max(1, int(LAST * run["rounds"]))
    return f"{100 * np.mean([entry['accuracy'] for entry in run['history'][-count:]]):.2f}"


def faults(records: list[dict]) -> str:
    """Runs with and without kills."""
    lines = [
        [
            "; ".join(run["events"]) or "nothing",
            f"{run['nodes']}",
            f"{run['rounds']}",
            f"{100 * run['accuracy']:.2f}",
            last(run),
            f"{run['params']:,}",
        ]
        for run in sorted(
            (r for r in records if r["case"] == "faults"), key=lambda r: (r["rounds"], r["killed"])
        )
    ]
    header = ["what happened", "clients", "rounds", "test accuracy, %"]
    header += ["mean of the last quarter of rounds", "parameters"]
    return markdown(header, lines) if lines else ""


def caps(records: list[dict]) -> str:
    """What became of plain training, by budget."""
    runs = [r for r in records if r["case"] == "memory"]
    lines = [[cap, outcome] for run in runs[-1:] for cap, outcome in run["plain"].items()]
    return markdown(["cap", "outcome"], lines) if lines else ""


def scale(records: list[dict]) -> str:
    """Time of a round and memory of the server, by number of clients."""
    lines = [
        [
            f"{run['nodes']:,}",
            f"{run['sampled']}",
            f"{run['rounds']}",
            f"{run['seconds'][0]:.0f}",
            f"{np.median(run['seconds'][1:]):.1f}",
            f"{run['memory'][-1] / MB:.0f}",
            f"{(run['memory'][-1] - run['memory'][0]) / MB:.1f}",
        ]
        for run in sorted((r for r in records if r["case"] == "scale"), key=lambda r: r["nodes"])
    ]
    header = ["clients", "in a round", "rounds", "first round, s", "later rounds, s"]
    header += ["server's peak memory, MB", "of it grown since round 1, MB"]
    return markdown(header, lines) if lines else ""
