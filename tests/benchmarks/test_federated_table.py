"""What is said of federated runs follows from their records."""

from benchmarks.federated_table import page


def run(method, accuracies, size, **more):
    history = [{"accuracy": accuracy} for accuracy in accuracies]
    return {
        **{"case": "accuracy", "method": method, "images": 100, "rounds": len(history)},
        **{"budgets": [], "split": "test", "accuracy": accuracies[-1], "history": history},
        **{"params": 1000, "bytes": size * 2**20, **more},
    }


def test_bytes_stand_beside_those_of_fedavg_with_as_many_rounds():
    records = [
        run("fedavg", [0.5] * 8, 100),
        run("dynhp", [0.1] * 6 + [0.6, 0.7], 30),
        run("dynhp", [0.2] * 4, 20),
        run("dynhp", [0.9] * 8, 10, split="validation"),
    ]
    table = page(records)
    assert "| DynHPStrategy, 10x | none | 100 | 8 | 70.00 | 65.00 | 1,000 | 30 (0.30) |" in table
    assert "| FedAvg, full network | none | 100 | 8 | 50.00 | 50.00 | 1,000 | 100 (1.00) |" in table
    # No plain run of four rounds, so no share; choices made on validation data are not results.
    assert "| 4 | 20.00 | 20.00 | 1,000 | 20 |" in table and "90.00" not in table


def test_growth_of_the_server_and_its_rounds():
    scale = {"case": "scale", "nodes": 1000, "sampled": 50, "rounds": 4}
    scale |= {"seconds": [50.0, 9.0, 1.0, 2.0], "memory": [800 * 2**20, 801 * 2**20, 802 * 2**20]}
    table = page([scale])
    assert "| 1,000 | 50 | 4 | 50 | 2.0 | 802 | 2.0 |" in table
    assert "killed" not in table  # no runs, no table
