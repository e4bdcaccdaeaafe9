"""Federated DynHP against plain FedAvg, on Flower's simulation engine; how it scales; memory caps.

    python -m benchmarks.federated --case=accuracy --method=fedavg
    python -m benchmarks.federated --case=accuracy --method=dynhp
    python -m benchmarks.federated --case=accuracy --method=dynhp --budgets=64MB,64MB,5MB
    python -m benchmarks.federated --case=scale --nodes=1000
    python -m benchmarks.federated --case=memory --budgets=64MB,8MB,5MB

Needs `pip install "flwr[simulation]"`. Each run adds a line to benchmarks/results/federated.jsonl
and writes federated.md from it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import keras
import numpy as np
from absl import app, flags

from benchmarks.federated_table import page

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "federated"
RESULTS = ROOT / "benchmarks" / "results" / "federated.jsonl"
BATCH = 32
HELD_OUT = 10000  # training images to make choices on

FLAGS = flags.FLAGS
flags.DEFINE_enum("case", "accuracy", ["accuracy", "scale", "memory"], "What to measure.")
flags.DEFINE_enum("method", "dynhp", ["dynhp", "fedavg"], "How to train.")
flags.DEFINE_integer("nodes", 10, "How many clients.")
flags.DEFINE_integer("sampled", 50, "Clients in a round of the scale case.")
flags.DEFINE_integer("rounds", 30, "Rounds of training.")
flags.DEFINE_integer("images", 20000, "Training images for all clients together.")
flags.DEFINE_integer("seed", 0, "Seeds split and weights.")
flags.DEFINE_enum(
    "split",
    "test",
    ["test", "validation"],
    "What is judged on: choices are made on training images that no client has.",
)
flags.DEFINE_list("budgets", "", "Training memory of the clients, in turn; no caps if empty.")
flags.DEFINE_string("work", "runs/federated_benchmark", "A folder for data.")


def example(name: str):
    """A module of the example."""
    for folder in (EXAMPLE.parent, EXAMPLE, EXAMPLE / "app"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return __import__(name, fromlist=["_"])


def write_split(folder: Path) -> None:
    """The example's data: a file for each client, Dirichlet 0.3."""
    partition = example("partition")
    images = example("datasets").fashion_mnist()
    order = np.random.default_rng(FLAGS.seed).permutation(len(images.x_train))
    chosen, held = order[: FLAGS.images], order[-HELD_OUT:]
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(
        partition.split(images.y_train[chosen], FLAGS.nodes, 0.3, FLAGS.seed)
    ):
        mine = chosen[part]
        partition.write_images(
            folder / f"client_{number}.npz", images.x_train[mine], images.y_train[mine]
        )
    judged = images.x_test, images.y_test
    if FLAGS.split == "validation":
        judged = images.x_train[held], images.y_train[held]
    partition.write_images(folder / "test.npz", *judged)


def client_app(folder: str, method: str, budgets: list[str]):
    """A ClientApp of either method; what it needs is in its closure, as it runs elsewhere."""
    from flwr.clientapp import ClientApp

    paths = [str(EXAMPLE / "app"), str(ROOT)]

    def parts(context):
        sys.path[:0] = [path for path in paths if path not in sys.path]
        from fashion.task import build_model, read_images

        number = context.node_config["partition-id"]
        budget = budgets[number % len(budgets)] if budgets else None
        return build_model, read_images(f"{folder}/client_{number}.npz"), budget

    application = ClientApp()

    @application.query()
    def query(message, context):
        from keras_dynhp.federated import DynHPClient

        build_model, data, budget = parts(context)
        return DynHPClient(build_model, data, budget).query(message, context)

    @application.train()
    def train(message, context):
        from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

        build_model, data, budget = parts(context)
        if method == "dynhp":
            from keras_dynhp.federated import DynHPClient

            return DynHPClient(build_model, data, budget).train(message, context)
        from keras_dynhp.federated.client import Batches

        model = build_model()
        model.set_weights(message.content["arrays"].to_numpy_ndarrays())
        model.fit(Batches(*data, BATCH, message.content["config"]["server-round"]), verbose=0)
        content = {
            "arrays": ArrayRecord(model.get_weights()),
            "metrics": MetricRecord({"num-examples": len(data[0])}),
        }
        return Message(RecordDict(content), reply_to=message)

    return application


def accuracy_of(model, folder: Path) -> float:
    """On the test images."""
    x, y = example("fashion.task").read_images(str(folder / "test.npz"))
    return float((model.predict(x, 500, verbose=0).argmax(-1) == y).mean())


def compare(folder: Path) -> dict:
    """One run of LeNet-5 on ten clients."""
    from flwr.serverapp import ServerApp

    import keras_dynhp as dynhp
    from keras_dynhp.federated import DynHPStrategy

    write_split(folder)
    result: dict = {}
    server = ServerApp()

    @server.main()
    def main(grid, context):
        keras.utils.set_random_seed(FLAGS.seed)
        model = example("fashion.task").build_model()
        if FLAGS.method == "fedavg":
            result.update(fedavg(grid, model, folder))
            return
        strategy = DynHPStrategy(model, dynhp.Target(compression=10), FLAGS.rounds)
        strategy.start(
            grid, evaluate=lambda m: {"accuracy": accuracy_of(m, folder)}, min_clients=FLAGS.nodes
        )
        result["history"] = strategy.history

    simulate(server, client_app(str(folder), FLAGS.method, [b for b in FLAGS.budgets if b]))
    history = result["history"]
    result["accuracy"] = history[-1]["accuracy"]
    result["params"] = history[-1]["params"]
    result["bytes"] = sum(e["bytes_down"] + e["bytes_up"] for e in history)
    result["rest"] = sum(e.get("bytes_rest", 0) for e in history)
    return result


def fedavg(grid, model, folder: Path) -> dict:
    """Flower's own FedAvg, its bytes counted."""
    from flwr.app import ArrayRecord, MetricRecord
    from flwr.serverapp.strategy import FedAvg

    history: list[dict] = []

    def size(messages):
        arrays = [a for m in messages for a in m.content["arrays"].values()]
        return sum(len(array.data) for array in arrays)

    class Counting(FedAvg):
        def configure_train(self, *args):
            messages = list(super().configure_train(*args))
            history.append({"bytes_down": size(messages), "params": model.count_params()})
            return messages

        def aggregate_train(self, number, replies):
            replies = list(replies)
            history[-1]["bytes_up"] = size([reply for reply in replies if not reply.has_error()])
            history[-1]["clients"] = len([reply for reply in replies if not reply.has_error()])
            return super().aggregate_train(number, replies)

    def evaluate(number, arrays):
        model.set_weights(arrays.to_numpy_ndarrays())
        accuracy = accuracy_of(model, folder)
        if number:
            history[-1]["accuracy"] = accuracy
        return MetricRecord({"accuracy": accuracy})

    strategy = Counting(fraction_evaluate=0.0, min_available_nodes=FLAGS.nodes)
    start = ArrayRecord(model.get_weights())
    strategy.start(grid, start, num_rounds=FLAGS.rounds, evaluate_fn=evaluate)
    return {"history": history}


def tiny_model():
    """A network for very small devices."""
    model = keras.Sequential(
        [keras.Input((16,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(4)]
    )
    model.compile(
        keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def scale() -> dict:
    """Many clients with a tiny network, some of them in each round."""
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    import keras_dynhp as dynhp
    from keras_dynhp.federated import DynHPStrategy

    build = tiny_model
    result: dict = {"memory": []}

    def client(context):
        from keras_dynhp.federated import DynHPClient

        random = np.random.default_rng(context.node_config["partition-id"])
        y = random.integers(0, 4, 64)
        x = np.eye(16, dtype="float32")[4 * y] + random.normal(0, 0.3, (64, 16)).astype("float32")
        return DynHPClient(build, (x, y))

    clients, server = ClientApp(), ServerApp()
    clients.query()(lambda message, context: client(context).query(message, context))
    clients.train()(lambda message, context: client(context).train(message, context))

    @server.main()
    def main(grid, context):
        strategy = DynHPStrategy(
            tiny_model(), dynhp.Target(compression=4), FLAGS.rounds, clients=FLAGS.sampled
        )

        def evaluate(_):
            result["memory"].append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
            return {}

        strategy.start(grid, evaluate=evaluate, min_clients=FLAGS.nodes)
        result["seconds"] = [entry["seconds"] for entry in strategy.history]
        result["clients"] = [entry["clients"] for entry in strategy.history]
        result["on_target"] = strategy.on_target

    simulate(server, clients)
    return result


def simulate(server, clients) -> None:
    """Flower's simulation engine, two clients at a time."""
    from flwr.simulation import run_simulation

    resources = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}}
    run_simulation(server, clients, FLAGS.nodes, backend_config=resources)


# What a child process does inside its cap: an epoch of the full network as it is.
PLAIN = """
import sys; sys.path[:0] = [{app!r}]
from fashion.task import build_model
import numpy as np
def batches():
    random = np.random.default_rng(0)
    for _ in range(20):
        yield random.random((32, 28, 28, 1), "float32"), random.integers(0, 10, 32)
try:
    model = build_model()
    model.fit(batches(), verbose=0)
    print("trained")
except Exception as error:
    print(type(error).__name__)
"""


def memory() -> dict:
    """For each budget: whether plain training of the full network fits a cap of that size."""
    partition = example("partition")
    outcome = {}
    for budget in FLAGS.budgets:
        code = PLAIN.format(app=str(EXAMPLE / "app"))
        env = {**os.environ, **partition.memory_cap(budget)}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        died = (
            "out of memory"
            if "OOM" in done.stderr
            else f"the process crashed (exit status {done.returncode})"
        )
        outcome[budget] = done.stdout.strip().split("\n")[-1] or died
    return {"plain": outcome}


def keep(record: dict, began: float) -> None:
    """Add a run to the results, and print all of it but its rounds."""
    record["total_seconds"] = round(time.time() - began)
    with open(RESULTS, "a") as file:
        file.write(json.dumps(record) + "\n")
    records = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    RESULTS.with_suffix(".md").write_text(page(records))
    print({name: value for name, value in record.items() if name != "history"})


def main(argv):
    """Run one case, keep its result."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    began = time.time()
    folder = Path(FLAGS.work).resolve()
    cases = {"accuracy": lambda: compare(folder), "scale": scale, "memory": memory}
    names = ("case", "method", "nodes", "sampled", "rounds", "images", "seed", "budgets", "split")
    record = {name: FLAGS[name].value for name in names}
    record |= cases[FLAGS.case]()
    keep(record, began)


if __name__ == "__main__":
    app.run(main)
