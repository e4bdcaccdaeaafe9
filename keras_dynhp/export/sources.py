"""C++ sources that put a .tflite file into firmware for TensorFlow Lite Micro."""

from __future__ import annotations

from collections.abc import Sequence

from keras_dynhp.export.operators import resolver_method
from keras_dynhp.export.report import DeviceReport, TensorInfo

# What the arena gets beyond the measured bytes: kernels that a board's vendor has optimized
# (CMSIS-NN, ESP-NN) ask for scratch memory that the reference kernels measured here do without.
ARENA_MARGIN = 0.25
ALIGNMENT = 16

_NUMBERS = {"float32": "float", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t"}
_HEADER = "// Written by tflite/convert.py of keras_dynhp from {source}. Do not edit.\n"


def generate(
    content: bytes, report: DeviceReport, labels: Sequence[str] = (), source: str = "a model"
) -> dict[str, str]:
    """The texts of `model_data.cc/.h`, `model_settings.h` and `op_resolver.h`, by file name.

    Args:
        content: the .tflite file's bytes.
        report: its report; `ram_bytes` has to be measured.
        labels: the names of the classes, in the order of the outputs; may be empty.
        source: what the header comments call the origin.

    Raises:
        ValueError: where the arena was not measured, or the labels are not one for each output.
    """
    if report.ram_bytes is None:
        raise ValueError(
            "the firmware needs the size of the tensor arena, which was not measured: "
            'pip install "keras-dynhp[device]"'
        )
    classes = report.outputs[0].shape[-1] if report.outputs[0].shape else 1
    if labels and len(labels) != classes:
        raise ValueError(f"the model has {classes} outputs; received {len(labels)} labels.")
    head = _HEADER.format(source=source)
    return {
        "model_data.h": head + _data_header(),
        "model_data.cc": head + _data(content),
        "model_settings.h": head + _settings(report, labels),
        "op_resolver.h": head + _resolver(report),
    }


def arena_with_margin(ram_bytes: int) -> int:
    """The arena that the firmware reserves: the measured bytes and `ARENA_MARGIN`, aligned.

    >>> from keras_dynhp.export.sources import arena_with_margin
    >>> arena_with_margin(10_000)
    12512
    """
    bytes_ = int(ram_bytes * (1 + ARENA_MARGIN))
    return -(-bytes_ // ALIGNMENT) * ALIGNMENT


def _data_header() -> str:
    return """#pragma once

#include <cstddef>

// The .tflite file, aligned to 16 bytes, in flash.
extern const unsigned char g_model_data[];
extern const std::size_t g_model_data_size;
"""


def _data(content: bytes) -> str:
    rows = (
        "    " + ", ".join(f"0x{byte:02x}" for byte in content[begin : begin + 16]) + ","
        for begin in range(0, len(content), 16)
    )
    listed = "\n".join(rows)
    return f"""#include "model_data.h"

alignas({ALIGNMENT}) const unsigned char g_model_data[] = {{
{listed}
}};
const std::size_t g_model_data_size = {len(content)};
"""


def _settings(report: DeviceReport, labels: Sequence[str]) -> str:
    arena = arena_with_margin(report.ram_bytes)
    rank = max(len(info.shape) for info in (*report.inputs, *report.outputs))
    listed = ", ".join(_string(label) for label in labels) or "nullptr"
    return f"""#pragma once

#include <cstddef>
#include <cstdint>

namespace model_settings {{

// Measured on TensorFlow Lite Micro: {report.ram_bytes} bytes (64-bit build, reference kernels).
// The margin of {100 * ARENA_MARGIN:.0f}% is for kernels that use scratch memory, such as CMSIS-NN.
constexpr std::size_t kMeasuredArenaBytes = {report.ram_bytes};
constexpr std::size_t kArenaBytes = {arena};
constexpr std::size_t kModelBytes = {report.flash_bytes};

using InputNumber = {_NUMBERS[report.inputs[0].dtype]};
using OutputNumber = {_NUMBERS[report.outputs[0].dtype]};

// A real number is (stored number - zero_point) * scale; a scale of 0: stored as it is.
struct TensorSpec {{
  int rank;
  int shape[{rank}];
  int size;
  float scale;
  int zero_point;
}};

constexpr int kInputCount = {len(report.inputs)};
constexpr TensorSpec kInputs[kInputCount] = {{
{_specs(report.inputs)}
}};
constexpr int kOutputCount = {len(report.outputs)};
constexpr TensorSpec kOutputs[kOutputCount] = {{
{_specs(report.outputs)}
}};

constexpr int kLabelCount = {len(labels)};
constexpr const char* kLabels[] = {{{listed}}};

}}  // namespace model_settings
"""


def _specs(infos: Sequence[TensorInfo]) -> str:
    lines = []
    for info in infos:
        size = 1
        for length in info.shape:
            size *= length
        shape = ", ".join(map(str, info.shape)) or "1"
        numbers = f"{size}, {info.scale!r}f, {info.zero_point}"
        lines.append(f"    {{{len(info.shape)}, {{{shape}}}, {numbers}}},")
    return "\n".join(lines)


def _string(text: str) -> str:
    plain = "".join(
        char if char.isascii() and char.isprintable() and char not in '"\\?' else _octal(char)
        for char in text
    )
    return f'"{plain}"'


def _octal(char: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in char.encode())


def _resolver(report: DeviceReport) -> str:
    names = sorted({op.name for op in report.ops})
    calls = "\n".join(
        f"  TF_LITE_ENSURE_STATUS(resolver.{resolver_method(name)}());" for name in names
    )
    return f"""#pragma once

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

// Exactly the operators of the model: no other kernel is linked.
using ModelOpResolver = tflite::MicroMutableOpResolver<{len(names)}>;

inline TfLiteStatus RegisterOperators(ModelOpResolver& resolver) {{
{calls}
  return kTfLiteOk;
}}
"""
