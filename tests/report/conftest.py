import pytest

from keras_dynhp.report.record import Report

NAMES = ("conv_1", "conv_2", "a_layer_with_quite_a_long_name_in_a_block", "hidden")
FULL = (20, 50, 64, 500)


@pytest.fixture
def report():
    """A record as a run of six epochs leaves it."""
    before = {"params": 431_080, "macs": 2_293_000, "neurons": 634}
    before["widths"] = dict(zip(NAMES, FULL))
    after = {"params": 40_100, "macs": 400_000, "neurons": 120}
    after["widths"] = dict(zip(NAMES, (5, 10, 16, 89)))
    epochs = []
    for number in range(6):
        left = 1 - min(number, 4) / 5
        memory = dict.fromkeys(("weights", "gradients"), int(1.6e6 * left))
        memory |= {"optimizer": int(3.2e6 * left), "activations": 900_000, "inputs": 100_000}
        memory |= {"workspace": 4_000_000}
        memory["total"] = sum(memory.values())
        epochs.append(
            {
                "epoch": number,
                "widths": {name: max(1, round(size * left)) for name, size in zip(NAMES, FULL)},
                "removed": 100 if 1 <= number <= 4 else 0,
                "memory": memory,
                "logs": {
                    "learning_rate": 1e-3 * 0.8**number,
                    "loss": 0.6 - 0.1 * number,
                    "accuracy": 0.8 + 0.02 * number,
                    "val_accuracy": 0.81 + 0.02 * number,
                    "neurons": 634.0 * left,
                    "params": 431_080.0 * left,
                    "batch_size": 32.0 * (1 + number),
                    "train_memory": memory["total"] * 0.97,
                },
            }
        )
    return Report(
        before,
        after,
        epochs,
        kept={"logits": "an output of the model (logits)"},
        barriers={"norm": "normalizes over channels, <so> removing one would change the others"},
        notes=["Epoch 2 pruned nothing."],
        budget=12 * 2**20,
        device={"flash_bytes": 43_000, "ram_bytes": 9_000, "ops": [{"name": "ADD", "count": 2}]},
    )
