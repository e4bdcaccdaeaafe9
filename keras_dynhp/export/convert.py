"""A Keras graph through TensorFlow's converter: batch of one, builtins only, quietly."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.export import flatbuffer
from keras_dynhp.export.data import Samples
from keras_dynhp.export.masks import Masks
from keras_dynhp.export.operators import MICRO_OPERATORS
from keras_dynhp.export.plain import device_layers
from keras_dynhp.export.quiet import captured_stderr
from keras_dynhp.keras_state import graph
from keras_dynhp.keras_state.device_forms import (
    gelu_as_sigmoid,
    positions_alone,
    repeats_as_resizing,
    splits_as_slices,
)

# Calibration runs the float network on this many samples, spread over those given.
CALIBRATION_SAMPLES = 300

_OPERATOR_SETS = {
    None: tf.lite.OpsSet.TFLITE_BUILTINS,
    "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
    "int16x8": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
}
_APPROXIMATE = (
    "the exact GELU is computed by its usual approximation, which is off by 0.0005 at most: "
    "TensorFlow Lite Micro has neither GELU nor the error function"
)
_IO_TYPES = {None: tf.float32, "int8": tf.int8, "int16x8": tf.int16}


class UnsupportedOperatorError(ValueError):
    """The network has an operator that the device's runtime lacks; says which and where from."""


@dataclass(frozen=True)
class Origin:
    """An operator of the file, its place in its subgraph, and the layers that it came from."""

    name: str
    number: int
    origin: str
    floating: bool


@dataclass(frozen=True)
class Converted:
    """The file's bytes, its operators in order, and notes on what they do in another way."""

    content: bytes
    operators: list[Origin]
    notes: list[str] = field(default_factory=list)


def convert(model: keras.Model, quantize: str | None, samples: Samples | None) -> Converted:
    """The .tflite of a model: in float32 throughout, its loops over time unrolled if need be.

    Args:
        model: a Sequential or Functional Keras 3 model.
        quantize: None, "int8" or "int16x8".
        samples: what calibrates it; lengths that the model leaves open are theirs.

    Raises:
        ValueError: naming a layer that has to be made anew for the device, and can't be.
        UnsupportedOperatorError: naming each operator that TensorFlow Lite, or TensorFlow Lite
            Micro, lacks, and the layer it came from.
    """
    scopes = Scopes()
    shapes = samples.shapes if samples else [tensor.shape[1:] for tensor in model.inputs]
    instead = device_layers(model, shapes, unroll=quantize is not None)
    width = len(str(max(len(model.inputs), len(model.outputs))))
    specs = [
        tf.TensorSpec((1, *shape), _device_type(tensor), name=f"input_{number:0{width}}")
        for number, (tensor, shape) in enumerate(zip(model.inputs, shapes))
    ]
    calibration = _calibration(samples, specs) if quantize else None
    concrete, notes = _traced(_runner(model, scopes, instead), specs, calibration)
    if quantize:
        _refuse_loops(concrete, scopes)

    def configure(converter):
        converter.target_spec.supported_ops = [_OPERATOR_SETS[quantize]]
        if quantize is None:
            return
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        # One scale for a dense kernel, not one for each unit: on LeNet-300-100 it halves the arena
        # (6,936 to 3,376 bytes), saves 16 bytes of flash a unit, and int8 accuracy on MNIST and
        # Fashion-MNIST stays within 0.13 points of the other.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
        converter.representative_dataset = calibration
        if {spec.dtype for spec in specs} == {tf.float32}:
            converter.inference_input_type = _IO_TYPES[quantize]
        converter.inference_output_type = _IO_TYPES[quantize]

    layers = [one for one in instead.values() if isinstance(one, keras.layers.Layer)]
    variables = [v.value for holder in (model, *layers) for v in holder.variables]
    try:
        converted = run_converter(concrete, variables, configure, scopes)
        return replace(converted, notes=notes)
    except ValueError as error:
        refused = re.search(r"16x8-bit not yet supported for op: '(\w+)'", str(error))
        if not refused:
            raise
        raise _without_int16(refused.group(1), convert(model, None, samples)) from error


def run_converter(
    concrete, variables: list[tf.Variable], configure: Callable, scopes: Scopes | None = None
) -> Converted:
    """A traced function of a batch of one through the converter, checked and made compact.

    Args:
        concrete: the concrete function; its inputs and outputs are named in their order.
        variables: the variables that it reads.
        configure: is given the `tf.lite.TFLiteConverter` to set what it shall do.
        scopes: the scopes in which it was traced, for the messages.
    """
    holder = tf.Module()
    holder.variables_kept = variables
    scopes = scopes or Scopes()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], holder)
    converter.experimental_enable_resource_variables = False
    configure(converter)
    try:
        with captured_stderr():
            content = converter.convert()
    except Exception as error:
        raise _explained(error, concrete.graph, scopes) from error
    return _checked(content, scopes)


class Scopes:
    """Numbers the calls of layers, so that what the converter names can be traced back."""

    def __init__(self):
        self.names: list[str] = []

    def open(self, name: str):
        """A scope for one call of the layer of that name."""
        self.names.append(name)
        return tf.name_scope(f"K{len(self.names) - 1}K/")

    def layers_in(self, text: str) -> str:
        """The layers whose scopes a converter's name mentions."""
        numbers = sorted({int(number) for number in re.findall(r"\bK(\d+)K/", text)})
        return ", ".join(dict.fromkeys(self.names[number] for number in numbers))


def _runner(model: keras.Model, scopes: Scopes, instead: dict[int, object]) -> Callable:
    """The model as a function in which every call of a layer has a name scope of its own.

    Args:
        model: the model.
        scopes: where those scopes are numbered.
        instead: what is called instead of an operation, by its id.
    """

    def walk(functional, inputs, path):
        known = {id(symbol): value for symbol, value in zip(functional.inputs, inputs)}
        for node in graph.nodes_in_order(functional):
            if graph.is_input(node):
                continue
            operation, name = node.operation, f"{path}{node.operation.name}"
            inner = graph.functional_of(operation) if isinstance(operation, keras.Model) else None
            if inner is not None:
                given = [known[id(symbol)] for symbol in graph.input_tensors(node)]
                results = walk(inner, given, f"{name}/")
            else:
                args, kwargs = graph.fill_in(node, known)
                with scopes.open(name):
                    called = instead.get(id(operation), operation)
                    results = keras.tree.flatten(_called(called, args, kwargs))
            known.update((id(s), value) for s, value in zip(graph.output_tensors(node), results))
        return [known[id(symbol)] for symbol in functional.outputs]

    def run(*inputs):
        outputs = walk(graph.functional_of(model), inputs, "")
        width = len(str(len(outputs)))
        return {f"output_{number:0{width}}": value for number, value in enumerate(outputs)}

    return run


def _traced(run: Callable, specs: list, calibration: Callable | None):
    """The concrete function, and notes on what it does in another way than the model.

    Where it will be quantized, its masks are such as int8 can hold.
    """
    masks, notes = Masks(), []

    def trace(function):
        with contextlib.ExitStack() as forms:
            exact = forms.enter_context(gelu_as_sigmoid())
            forms.enter_context(repeats_as_resizing())
            forms.enter_context(positions_alone())
            if calibration is not None:
                # The quantizer leaves a SPLIT in float32 or not, by chance (TensorFlow 2.21).
                forms.enter_context(splits_as_slices())
            concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
        notes[:] = [_APPROXIMATE] if any(exact) else []
        return concrete

    concrete = trace(masks.applied(run))
    if masks.any and calibration is not None:
        masks.look_at(run, [list(map(tf.constant, x.values())) for x in calibration()])
        concrete = trace(masks.applied(run))
    return concrete, notes


def _device_type(tensor) -> str:
    """The type of an input in the file: TensorFlow Lite Micro computes with no int64, no uint8."""
    other = {"int64": "int32", "uint8": "float32", "float16": "float32", "bfloat16": "float32"}
    return other.get(tensor.dtype, tensor.dtype)


def _called(operation, args, kwargs):
    """What an operation makes of its arguments when nothing is trained."""
    form = _FORMS.get(type(operation))
    if form is not None:
        return form(operation, args[0])
    layer = operation if isinstance(operation, keras.layers.Layer) else None
    if layer is not None and "training" in inspect.signature(layer.call).parameters:
        # Layers that augment data do so unless they are told not to, as `predict` tells them.
        kwargs = {**kwargs, "training": False}
    return operation(*args, **kwargs)


def _rows(layer: keras.layers.Embedding, numbers):
    """Keras lets negative numbers count from the end, which TensorFlow Lite Micro can't."""
    rows = tf.gather(layer.embeddings, tf.cast(numbers, tf.int32))
    return graph.with_mask(rows, layer.compute_mask(numbers))  # attention reads it there


def _enlarged(layer: keras.layers.UpSampling2D, images):
    """At once: Keras repeats rows, and then columns, where it takes the nearest."""
    if layer.interpolation != "nearest":
        return layer(images)
    first = {"channels_last": 1, "channels_first": 2}[layer.data_format]
    sides = zip(images.shape[first : first + 2], layer.size)
    return keras.ops.image.resize(
        images,
        [side * factor for side, factor in sides],
        interpolation="nearest",
        data_format=layer.data_format,
    )


# Layers that are computed in another way on the device; classes derived from them are not.
_FORMS = {keras.layers.Embedding: _rows, keras.layers.UpSampling2D: _enlarged}


def _refuse_loops(concrete, scopes: Scopes) -> None:
    """The quantizer crashes the whole process on a loop (TensorFlow 2.21), so none may reach it."""
    loops = [op.name for op in concrete.graph.get_operations() if "While" in op.type]
    if loops:
        layers = "; ".join(dict.fromkeys(scopes.layers_in(f"{name}/") for name in loops))
        raise UnsupportedOperatorError(
            f"the operator WHILE of {layers} cannot be quantized: TensorFlow's converter has no "
            "integer form of a loop. Unroll the loop (unroll=True in a keras.layers.RNN), or "
            "export with quantize=None."
        )


def _calibration(samples: Samples, specs: list) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
    """The samples by the names of the inputs: the converter's own order may be any."""
    count = min(len(samples), CALIBRATION_SAMPLES)
    chosen = np.linspace(0, len(samples) - 1, count).astype(int)
    types = {spec.name: spec.dtype.as_numpy_dtype for spec in specs}
    return lambda: (
        {name: np.asarray(x, types[name]) for name, x in zip(types, samples.at(index))}
        for index in chosen
    )


def _explained(error: Exception, traced: tf.Graph, scopes: Scopes) -> Exception:
    """The converter names operators; the traced graph knows which layers have them."""
    kinds = dict.fromkeys(re.findall(r"'tf\.(\w+)' op is neither", str(error)))
    if not kinds:
        first = [line for line in str(error).splitlines() if line.strip()]
        return ValueError(
            f"TensorFlow's converter failed: {first[0] if first else type(error).__name__}"
        )
    found = {}
    functions = {one.signature.name: one for one in traced.as_graph_def().library.function}
    for kind in kinds:
        names = [op.name for op in traced.get_operations() if _runs(op, kind, functions)]
        found[kind] = scopes.layers_in(" ".join(f"{name}/" for name in names)) or "an unnamed layer"
    listed = "; ".join(f"{operator} of layer {layer}" for operator, layer in found.items())
    return UnsupportedOperatorError(
        f"TensorFlow Lite has no builtin operator for: {listed}. Replace what the layer computes "
        "by operations that TensorFlow Lite has, or compute it outside the model."
    )


def _runs(operation, kind: str, functions: dict) -> bool:
    """Whether an operation of a graph is of a kind, or has one inside it, as a loop has."""
    node = getattr(operation, "node_def", operation)
    called = [functions[v.func.name] for v in node.attr.values() if v.func.name in functions]
    return node.op == kind or any(_runs(one, kind, functions) for f in called for one in f.node_def)


def _without_int16(name: str, in_float: Converted) -> UnsupportedOperatorError:
    places = [op.origin for op in in_float.operators if op.name == name]
    return UnsupportedOperatorError(
        f"TensorFlow Lite has no int16 kernel for {name} of layer "
        f"{'; '.join(dict.fromkeys(places)) or '(made while quantizing)'}. Use quantize='int8', "
        "or replace what the layer computes."
    )


def _checked(content: bytes, scopes: Scopes) -> Converted:
    """Refuse what the micro runtime lacks while the names are still there, then drop them."""
    model = flatbuffer.read(content)
    flatbuffer.select_as_the_newer(model)
    operators = []
    last = scopes.names[-1] if scopes.names else ""
    unsized: list[str] = []
    loops: dict[int, str] = {}  # the subgraphs that an operator calls, and where that is
    for place, subgraph in enumerate(model.subgraphs):
        for number, operator in enumerate(subgraph.operators or []):
            tensors = [subgraph.tensors[index] for index in operator.outputs]
            names = " ".join(flatbuffer.tensor_name(tensor) for tensor in tensors)
            floating = any(flatbuffer.type_name(tensor) == "float32" for tensor in tensors)
            name = flatbuffer.operator_name(model, operator)
            origin = loops.get(place) or scopes.layers_in(names) or last
            inside = f"{origin} (inside its {name})" if place == 0 else origin
            loops.update(dict.fromkeys(flatbuffer.called_subgraphs(operator), inside))
            operators.append(Origin(name, number, origin, floating))
            if any(map(flatbuffer.has_open_size, tensors)):
                unsized.append(f"{name} of layer {origin}")
    if not operators:
        raise ValueError(
            "the model computes nothing: its outputs are its inputs, so no file is made."
        )
    missing = [
        f"{op.name} of layer {op.origin}" for op in operators if op.name not in MICRO_OPERATORS
    ]
    if missing:
        raise UnsupportedOperatorError(
            f"TensorFlow Lite Micro has no operator for: {'; '.join(dict.fromkeys(missing))}. "
            "Replace what the layer computes by operations that it has "
            "(keras_dynhp.export.operators.MICRO_OPERATORS), or compute it outside the model."
        )
    if unsized:
        raise UnsupportedOperatorError(
            f"the size of what these make is known only when they run: "
            f"{'; '.join(dict.fromkeys(unsized))}. TensorFlow Lite Micro fixes all sizes before. "
            "Take sizes from shapes that are known, unroll a loop that collects what it makes, or "
            "compute it outside the model."
        )
    flatbuffer.order_interface(model)
    return Converted(flatbuffer.compact(model), operators)
