"""A drawing of a model's graph with its channel groups in colours, in Graphviz's DOT language."""

from __future__ import annotations

import colorsys
import os
import shutil
import subprocess

import keras

from keras_dynhp.keras_state import graph as ks

KEPT, BARRIER = "#d9d9d9", "#e34a33"


def draw(groups) -> str:
    """The graph of a model: layers filled with the colour of the neurons that they return.

    Grey: neurons that stay. A red frame: a barrier. Arrows have the colour of what they carry.
    """
    return "\n".join(_Drawing(groups).lines())


def render(groups, path: str | os.PathLike) -> None:
    """Write the drawing to a file: `.dot` as text, other suffixes (`.svg`, `.png`) by Graphviz.

    Raises:
        RuntimeError: if Graphviz is needed and not installed, or fails.
    """
    suffix = os.path.splitext(path)[1].lstrip(".")
    if suffix == "dot":
        with open(path, "w", encoding="utf-8") as file:
            file.write(draw(groups) + "\n")
        return
    program = shutil.which("dot")
    if program is None:
        raise RuntimeError(
            f"Drawing {os.fspath(path)!r} needs Graphviz, whose program `dot` was not found: "
            "install it (apt-get install graphviz, brew install graphviz), or give a path that "
            "ends in .dot."
        )
    done = subprocess.run(
        [program, f"-T{suffix}", "-o", os.fspath(path)],
        input=draw(groups),
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"Graphviz could not draw {os.fspath(path)!r}: {done.stderr.strip()}")


def _colour(number: int) -> str:
    """Colours far apart: steps of the golden ratio around the circle of hues."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.45, 0.95)
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


class _Drawing:
    def __init__(self, groups):
        self.groups = groups
        self.trace = groups.trace
        self.names: dict[int, str] = {}  # tensor -> the node that returns it

    def lines(self):
        yield "digraph channels {"
        yield "  rankdir=TB; node [shape=box, style=filled, fontname=Helvetica];"
        functional = ks.functional_of(self.trace.model)
        for tensor in functional.inputs:
            name = ks.maker_of(tensor).name
            self.names[id(tensor)] = name
            label = _quoted(f"{name}\n{tuple(tensor.shape)}")
            yield f"  {_quoted(name)} [label={label}, fillcolor=white, shape=ellipse];"
        yield from self._functional(functional, "")
        for number, group in enumerate(self.groups):
            label = _quoted(f"group {group.name}\n{group.size} neurons")
            yield f'  "group {number}" [label={label}, fillcolor={_quoted(_colour(number))}];'
        yield "}"

    def _colours(self, tensor) -> list[str]:
        found = self.groups.neurons_of(self.trace.tensors[id(tensor)].ravel())
        return [_colour(number) for number in sorted(found)] or [KEPT]

    def _functional(self, functional, prefix: str):
        for node in ks.nodes_in_order(functional):
            if ks.is_input(node):
                continue
            operation, outputs = node.operation, ks.output_tensors(node)
            inner = ks.functional_of(operation) if isinstance(operation, keras.Model) else None
            if inner is not None:
                for tensor, given in zip(inner.inputs, ks.input_tensors(node)):
                    self.names[id(tensor)] = self.names[id(given)]
                yield from self._functional(inner, f"{prefix}{operation.name}/")
                for tensor, made in zip(outputs, inner.outputs):
                    self.names[id(tensor)] = self.names[id(made)]
                continue
            path = prefix + operation.name
            label = _quoted(f"{path}\n{type(operation).__name__} {tuple(outputs[0].shape)}")
            fill = _quoted(":".join(dict.fromkeys(self._colours(outputs[0]))))
            frame = ""
            if path in self.groups.barriers:
                reason = _quoted(self.groups.barriers[path])
                frame = f', color="{BARRIER}", penwidth=3, tooltip={reason}'
            yield f"  {_quoted(path)} [label={label}, fillcolor={fill}{frame}];"
            for tensor in ks.input_tensors(node):
                colour = _quoted(self._colours(tensor)[0])
                source = _quoted(self.names[id(tensor)])
                yield f"  {source} -> {_quoted(path)} [color={colour}, penwidth=2];"
            for tensor in outputs:
                self.names[id(tensor)] = path
