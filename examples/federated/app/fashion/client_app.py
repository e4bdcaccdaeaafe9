"""The ClientApp: a node's `--node-config` names its data and its memory budget."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fashion.task import build_model, read_images
from keras_dynhp.federated import DynHPClient

app = ClientApp()


def client(context: Context) -> DynHPClient:
    """This node's client."""
    data = read_images(context.node_config["data"])
    return DynHPClient(build_model, data, budget=context.node_config["budget"])


@app.query()
def query(message: Message, context: Context) -> Message:
    """What can you hold?"""
    return client(context).query(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """A round of training."""
    return client(context).train(message, context)
