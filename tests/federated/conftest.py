"""A federation in one process: real strategy, real clients, messages handed over by hand."""

import random
import types

import keras
import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from keras_dynhp.federated import DynHPClient

CENTRES = np.random.default_rng(1).normal(size=(3, 8)).astype("float32") * 2


def build_model(classes=3):
    random.seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(12, "relu"),
            keras.layers.Dense(6, "relu"),
            keras.layers.Dense(classes),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def examples(count, seed):
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, count)
    return CENTRES[y] + random.normal(size=(count, 8)).astype("float32"), y


def accuracy(model):
    x, y = examples(300, 99)
    return float((model.predict(x, verbose=0).argmax(-1) == y).mean())


class Node:
    """A node that trains; `spoil` changes its replies, `fails` makes it raise."""

    def __init__(self, seed=0, count=64, build=build_model, spoil=None, **options):
        self.client = DynHPClient(build, examples(count, seed), **options)
        self.state, self.spoil, self.fails, self.calls = RecordDict(), spoil, False, []

    def answer(self, message):
        kind = message.metadata.message_type
        self.calls.append(kind)
        context = Context(1, message.metadata.dst_node_id, {}, self.state, {})
        if self.fails:
            return Message(Error(code=2, reason="the device went up in flames"), reply_to=message)
        reply = getattr(self.client, kind)(message, context)
        if self.spoil is not None and kind == "train":
            self.spoil(reply.content)
        return reply


class LocalGrid(Grid):
    """Hands each message to its node at once."""

    def __init__(self, nodes):
        self.nodes = dict(enumerate(nodes, 1))
        # What Flower sets in the processes it starts.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout=None):
        return [self.nodes[m.metadata.dst_node_id].answer(m) for m in messages]

    def set_run(self, run):
        raise NotImplementedError

    run = property(set_run)
    create_message = push_messages = pull_messages = set_run


@pytest.fixture(scope="session")
def federation():
    """What the tests build federations from."""
    return types.SimpleNamespace(
        Node=Node, LocalGrid=LocalGrid, build_model=build_model, accuracy=accuracy
    )
