"""The ServerApp; it dies after a round if it is told to."""

import json
import os
from pathlib import Path

from flwr.serverapp import ServerApp

import keras_dynhp as dynhp
from keras_dynhp.federated import DynHPStrategy
from tiny import task

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    out, model = Path(config["out"]), task.build_model()
    strategy = DynHPStrategy(
        model, dynhp.Target(compression=2), config["rounds"], state=out / "state.npz"
    )
    x, y = task.examples(500, 99)

    def evaluate(model):
        if len(strategy.history) > config["die-after"] > 0:
            os._exit(9)  # in the middle of a round: it isn't on disk yet
        return {"accuracy": (model.predict(x, verbose=0).argmax(-1) == y).mean()}

    strategy.start(grid, timeout=240, evaluate=evaluate, min_clients=2)
    model.save(out / "model.keras")
    (out / "history.json").write_text(json.dumps(strategy.history))
