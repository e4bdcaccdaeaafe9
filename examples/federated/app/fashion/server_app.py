"""The ServerApp: runs the rounds, writes model.keras and history.json."""

import json
from pathlib import Path

import keras
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import keras_dynhp as dynhp
from fashion.task import build_model, read_images
from keras_dynhp.federated import DynHPStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Begin, or go on from state.npz."""
    config = context.run_config
    out = Path(config["out"])
    keras.utils.set_random_seed(0)
    model = build_model()
    target = dynhp.Target(compression=config["compression"])
    strategy = DynHPStrategy(model, target, config["rounds"], state=out / "state.npz")
    x, y = read_images(out / "data" / "test.npz")

    def evaluate(model):
        return {"accuracy": (model.predict(x, 500, verbose=0).argmax(-1) == y).mean()}

    strategy.start(grid, config["timeout"], evaluate, min_clients=config["clients"])
    model.save(out / "model.keras")
    (out / "history.json").write_text(json.dumps(strategy.history, indent=2))
