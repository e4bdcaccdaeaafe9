"""Reading a .tflite file, and writing it again without what a device has no use for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from keras_dynhp.export.sharing import SharingBuilder

_OPERATOR_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)
}
_TYPE_NAMES = {
    code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)
}


def read(content: bytes) -> schema.ModelT:
    """The model in a .tflite file as a tree of plain objects.

    Raises:
        ValueError: where the bytes are no TensorFlow Lite flatbuffer.
    """
    if len(content) < 8 or content[4:8] != b"TFL3":
        raise ValueError(
            f"not a TensorFlow Lite file: {len(content)} bytes that begin with "
            f"{bytes(content[:8])!r}, where bytes 4 to 8 have to be b'TFL3'."
        )
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """The name of an operator as TensorFlow Lite spells it: "CONV_2D"; a custom one by its own."""
    code = model.operatorCodes[operator.opcodeIndex]
    if code.customCode is not None:
        return bytes(code.customCode).decode()
    return _OPERATOR_NAMES[_builtin(code)]


def _builtin(code: schema.OperatorCodeT) -> int:
    """Codes below 127 stand in the older field as well, or only there."""
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def called_subgraphs(operator: schema.OperatorT) -> list[int]:
    """The subgraphs that an operator runs: condition and body of a loop, branches."""
    options = operator.builtinOptions
    names = ("cond", "body", "then", "else")
    found = (getattr(options, f"{name}SubgraphIndex", None) for name in names)
    return [index for index in found if index is not None]


def type_name(tensor: schema.TensorT) -> str:
    """The dtype of a tensor: "int8"."""
    return _TYPE_NAMES[tensor.type]


def has_open_size(tensor: schema.TensorT) -> bool:
    """Whether only the running network knows how large a tensor is."""
    return tensor.shapeSignature is not None and -1 in tensor.shapeSignature


def tensor_name(tensor: schema.TensorT) -> str:
    """The name that the converter gave a tensor."""
    return "" if tensor.name is None else bytes(tensor.name).decode()


def compact(model: schema.ModelT) -> bytes:
    """The same network in fewer bytes; the tree is changed on the way.

    Left out: names of tensors and of a single signature, descriptions, the converter's metadata,
    statistics of the calibration. Written once: vectors, tables and constants that are equal. What
    a kernel reads stays as it was, and constants keep their 16-byte alignment.
    """
    model.description = None
    model.metadata = None
    model.metadataBuffer = None
    if len(model.signatureDefs or []) == 1:
        model.signatureDefs = None
    for number, subgraph in enumerate(model.subgraphs):
        subgraph.name = None if number == 0 else subgraph.name
        for tensor in subgraph.tensors:
            _strip(tensor)
        for operator in subgraph.operators or []:
            operator.debugMetadataIndex = -1
    _share_buffers(model)
    trial = SharingBuilder()
    model.Pack(trial)
    builder = SharingBuilder()
    builder.write_vectors(trial.vectors)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def places(model: schema.ModelT, end: str, names: Sequence[str]) -> list[int]:
    """Where a file has the inputs or outputs of a model, in the model's order.

    The converter may put them in any order; the signature, where there is one, tells which is
    which: by the names given, or by numbers at the end of its own ("output_1").

    Args:
        model: the file.
        end: "inputs" or "outputs".
        names: the model's names of them.
    """
    indices = [int(index) for index in getattr(model.subgraphs[0], end)]
    if not model.signatureDefs:
        return list(range(len(indices)))
    entries = {
        bytes(entry.name).decode(): entry.tensorIndex
        for entry in getattr(model.signatureDefs[0], end)
    }
    numbers = {name: re.search(r"(\d+)\D*$", name) for name in entries}
    if set(names) == set(entries):
        order = list(names)
    elif all(numbers.values()):
        order = sorted(entries, key=lambda name: int(numbers[name].group(1)))
    else:
        return list(range(len(indices)))
    return [indices.index(entries[name]) for name in order]


def order_interface(model: schema.ModelT) -> None:
    """Inputs and outputs in the order of their names in the signature; the tree is changed."""
    signature, subgraph = model.signatureDefs[0], model.subgraphs[0]
    for maps in (signature.inputs, signature.outputs):
        maps.sort(key=lambda entry: bytes(entry.name))
    # A subgraph's order is free of its signature's, and what a device sees.
    subgraph.inputs = np.array([entry.tensorIndex for entry in signature.inputs], np.int32)
    subgraph.outputs = np.array([entry.tensorIndex for entry in signature.outputs], np.int32)


def select_as_the_newer(model: schema.ModelT) -> None:
    """SELECT becomes SELECT_V2, which TensorFlow Lite Micro has; the tree is changed.

    The newer one spreads its arguments over each other, the old one in another way: where all have
    one shape both are the same, and elsewhere the old one stays.
    """
    builtin = [_builtin(code) for code in model.operatorCodes]
    if schema.BuiltinOperator.SELECT not in builtin:
        return
    older = builtin.index(schema.BuiltinOperator.SELECT)
    operators = [
        (subgraph, operator)
        for subgraph in model.subgraphs
        for operator in subgraph.operators or []
    ]
    calls = [(graph, operator) for graph, operator in operators if operator.opcodeIndex == older]
    for graph, operator in calls:
        if len({tuple(graph.tensors[number].shape) for number in operator.inputs}) > 1:
            return
    newer = schema.BuiltinOperator.SELECT_V2
    for _, operator in calls:
        operator.builtinOptionsType = schema.BuiltinOptions.SelectV2Options
        operator.builtinOptions = schema.SelectV2OptionsT()
    code = model.operatorCodes[older]
    if newer not in builtin:
        code.builtinCode, code.deprecatedBuiltinCode, code.version = newer, newer, 1
        return
    for _, operator in calls:
        operator.opcodeIndex = builtin.index(newer)
    model.operatorCodes.remove(code)
    for _, operator in operators:
        operator.opcodeIndex -= operator.opcodeIndex > older


def _strip(tensor: schema.TensorT) -> None:
    tensor.name = None
    if not has_open_size(tensor):
        tensor.shapeSignature = None
    quantization = tensor.quantization
    if quantization is not None:
        quantization.min = quantization.max = None
        if quantization.scale is None:
            tensor.quantization = None


def _share_buffers(model: schema.ModelT) -> None:
    """Buffer 0 is the empty one that all computed tensors name; equal constants become one."""
    kept, places = [schema.BufferT()], {b"": 0}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            data = model.buffers[tensor.buffer].data
            content = b"" if data is None else np.asarray(data, np.uint8).tobytes()
            if content not in places:
                places[content] = len(kept)
                kept.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
            tensor.buffer = places[content]
    model.buffers = kept
