"""Federated DynHP on Flower: a strategy for the ServerApp, a helper for the ClientApp."""

try:
    import flwr  # noqa: F401
except ImportError as error:
    raise ImportError(
        'keras_dynhp.federated needs Flower: pip install "keras-dynhp[federated]".'
    ) from error

from keras_dynhp.federated.client import DynHPClient
from keras_dynhp.federated.strategy import DynHPStrategy

__all__ = ["DynHPClient", "DynHPStrategy"]
