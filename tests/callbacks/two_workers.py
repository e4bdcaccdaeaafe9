"""Strategies of more than one process: what ours says to them, and what Keras's own `fit` does.

`python two_workers.py multi_worker INDEX PORT PORT`: one of two workers, run both at once.
`python two_workers.py parameter_server PORT PORT`: a worker and a parameter server in one process.
"""

import json
import os
import sys

import tensorflow as tf
from half_dead import data, network

import keras_dynhp as dynhp


def multi_worker(index: str, *ports: str):
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": cluster, "task": {"type": "worker", "index": int(index)}}
    )
    return tf.distribute.MultiWorkerMirroredStrategy()


def parameter_server(worker: str, server: str):
    cluster = tf.train.ClusterSpec(
        {"worker": [f"localhost:{worker}"], "ps": [f"localhost:{server}"]}
    )
    for job in ("worker", "ps"):
        tf.distribute.Server(cluster, job_name=job, task_index=0, protocol="grpc")
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, rpc_layer="grpc")
    return tf.distribute.ParameterServerStrategy(resolver)


def main(kind: str, *arguments: str) -> None:
    strategy = {"multi_worker": multi_worker, "parameter_server": parameter_server}[kind](
        *arguments
    )
    with strategy.scope():
        model = network()
        model.compile("adam", "mse")
    told = {"replicas": strategy.num_replicas_in_sync}
    for name, make in {"ours": lambda: [dynhp.DynHP()], "plain": list}.items():
        try:
            model.fit(*data(), batch_size=16, verbose=0, callbacks=make())
            told[name] = "works"
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(told), flush=True)
    os._exit(0)  # servers and coordinators would wait for each other


if __name__ == "__main__":
    main(*sys.argv[1:])
