"""Private facts about traced functions: what keeps one alive that nothing will call again."""

from __future__ import annotations

from tensorflow.python.framework import ops

__all__ = ["forget_traces"]


def forget_traces(function) -> None:
    """Let Python collect a traced train, test or predict function when it is dropped.

    TensorFlow keeps the gradient of each `tf.custom_gradient` in a graph under a name of its own,
    for ever, and through it the graph with its constants and the handles of its variables. Keras's
    optimizers have one in each train step: they sum gradients over replicas. Without it the
    garbage collector frees them; no earlier, as graphs are full of reference cycles.

    Args:
        function: as Keras made it, a `tf.function` or a plain function around one; or None.
    """
    graphs = _graphs_of(function, set())
    registry = ops.gradient_registry._registry
    for name in [name for name in registry if name.startswith("CustomGradient-")]:
        if any(graph in graphs for graph in _graphs_within(registry[name])):
            del registry[name]


def _graphs_of(function, seen: set[int]) -> set:
    """The graphs of all functions that a function may call through its closure."""
    if id(function) in seen:
        return set()
    seen.add(id(function))
    graphs = set()
    if hasattr(function, "_list_all_concrete_functions"):
        graphs.update(traced.graph for traced in function._list_all_concrete_functions())
        function = function.python_function
    for inside in _closure(function):
        if callable(inside):
            graphs |= _graphs_of(inside, seen)
    return graphs


def _graphs_within(entry: dict):
    """The graph in which a custom gradient was made, and those around that one."""
    for wrapper in _closure(entry["type"]):
        for value in _closure(wrapper):
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                graph = getattr(tensor, "graph", None)
                while graph is not None:
                    yield graph
                    graph = getattr(graph, "outer_graph", None)


def _closure(function) -> list:
    cells = getattr(function, "__closure__", None) or ()
    return [cell.cell_contents for cell in cells if cell != type(cell)()]
