"""The ClientApp."""

from flwr.clientapp import ClientApp

from keras_dynhp.federated import DynHPClient
from tiny import task

app = ClientApp()


def client(context):
    config = context.node_config
    return DynHPClient(task.build_model, task.examples(256, config["seed"]), config["budget"])


@app.query()
def query(message, context):
    return client(context).query(message, context)


@app.train()
def train(message, context):
    return client(context).train(message, context)
