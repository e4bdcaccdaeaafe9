"""The operators that TensorFlow Lite Micro has, and how its C++ resolver calls them."""

from __future__ import annotations

# The builtin operators of tflite-micro 0.dev20261023, read from the resolver of its Python
# package, which registers every operator that the library has.
_LISTED = """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND
    BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTH_TO_SPACE
    DEPTHWISE_CONV_2D DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS
    FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH
    IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOG_SOFTMAX LOGICAL_AND
    LOGICAL_NOT LOGICAL_OR LOGISTIC MAX_POOL_2D MAXIMUM MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL
    PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX
    SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE
    STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK
    VAR_HANDLE WHILE ZEROS_LIKE
"""
MICRO_OPERATORS = frozenset(_LISTED.split())

_IRREGULAR = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}


def resolver_method(name: str) -> str:
    """The method of `tflite::MicroMutableOpResolver` that adds an operator.

    >>> from keras_dynhp.export.operators import resolver_method
    >>> resolver_method("DEPTHWISE_CONV_2D"), resolver_method("FULLY_CONNECTED")
    ('AddDepthwiseConv2D', 'AddFullyConnected')
    """
    if name not in MICRO_OPERATORS:
        raise ValueError(f"TensorFlow Lite Micro has no operator {name!r}.")
    words = name.split("_")
    camel = "".join(word if word == "2D" else word.capitalize() for word in words)
    return "Add" + _IRREGULAR.get(name, camel)
