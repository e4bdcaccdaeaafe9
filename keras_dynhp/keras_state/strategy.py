"""Private facts about TensorFlow's clusters: whether this process has joined one."""

from __future__ import annotations

from tensorflow.python.eager import context

__all__ = ["strategy_of_cluster"]


def strategy_of_cluster() -> str | None:
    """The name of the strategy for which this process has joined others, or None.

    Keras's `fit` fails in such a strategy before it has called any callback, and the strategy is
    only in force inside its scope; but making one is remembered by TensorFlow's context.
    """
    state = context.context()
    if state._collective_ops_server_def is not None:
        return "MultiWorkerMirroredStrategy"
    server = state._server_def
    if server is not None and any(job.name == "ps" for job in server.cluster.job):
        return "ParameterServerStrategy"
    return None
