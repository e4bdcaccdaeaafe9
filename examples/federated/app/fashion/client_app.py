"""The ClientApp: a node's `--node-config` names its data and its memory budget."""

import keras
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fashion.task import build_model, learning_rate, read_images
from keras_dynhp.federated import DynHPClient

app = ClientApp()


def client(context: Context) -> DynHPClient:
    """This node's client."""
    data = read_images(context.node_config["data"])
    rounds = context.run_config["rounds"]
    falling = keras.callbacks.LearningRateScheduler(lambda epoch: learning_rate(epoch, rounds))
    budget = context.node_config["budget"]
    return DynHPClient(build_model, data, budget, callbacks=[falling])


@app.query()
def query(message: Message, context: Context) -> Message:
    """What can you hold?"""
    return client(context).query(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """A round of training."""
    return client(context).train(message, context)
