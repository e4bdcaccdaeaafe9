"""`device_report`: every figure about a .tflite file that this machine can measure."""

from __future__ import annotations

import os
import warnings

import keras

from keras_dynhp.costs.macs import count_macs
from keras_dynhp.export import flatbuffer, litert, measure, tflm, vela
from keras_dynhp.export.data import Samples, read_samples
from keras_dynhp.export.report import WHOLE, DeviceReport, of_output

# The share of samples that quantization may cost without a note.
TOLERATED_LOSS = 0.003
# The share of the range of outputs that the worst of them may be off without a warning.
TOLERATED_DIFFERENCE = 0.25
_MISSING = '{what}: {package} is not installed (pip install "keras-dynhp[device]")'


def device_report(path: str, model: keras.Model, data=None, npu: str | None = None) -> DeviceReport:
    """Measure a .tflite file: arena, agreement of the runtimes, accuracy, an NPU's cycles.

    `export_tflite` reports the same, but checks agreement only where that takes seconds and does
    not ask an NPU's compiler.

    Args:
        path: a .tflite file, made by `export_tflite` or by anything else.
        model: the Keras model that it was made from.
        data: samples as `export_tflite` takes them, all of which are read; with labels (classes)
            the report has accuracies, and with 200 samples or more the agreement is checked on 200.
        npu: None, or an Ethos-U such as "ethos-u55-128" (`keras_dynhp.export.vela.ACCELERATORS`).

    Raises:
        ValueError: where the file is no .tflite file, or has several signatures, or the data do
            not fit.
        MicroRuntimeError: where TensorFlow Lite Micro refuses the file.

    Example:

    >>> import keras, os, tempfile
    >>> from keras_dynhp.export.device import device_report
    >>> from keras_dynhp.export.tflite import export_tflite
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> report = export_tflite(model, path)
    >>> device_report(path, model).flash_bytes == report.flash_bytes
    True
    """
    with open(path, "rb") as file:
        content = file.read()
    signatures = flatbuffer.read(content).signatureDefs or []
    if len(signatures) > 1:
        raise ValueError(
            f"{path!r} has {len(signatures)} signatures: TensorFlow Lite Micro runs one. Export "
            "the one that the device needs by itself."
        )
    samples = None if data is None else read_samples(model, data, most=None)
    return build_report(path, content, model, samples, npu=npu)


def build_report(
    path: str,
    content: bytes,
    model: keras.Model,
    samples: Samples | None,
    agreement_macs: float = float("inf"),
    npu: str | None = None,
) -> DeviceReport:
    """The report; where a runtime is missing a note says which `pip install` brings it."""
    notes: list[str] = []
    inputs, outputs = measure.interface(content, model)
    macs = count_macs(model, [info.shape[1:] for info in inputs])
    quantize, arena, agreement, fidelity = measure.quantization(content), None, None, None
    if tflm.installed():
        arena = tflm.measure_arena(path)
    else:
        notes.append(_MISSING.format(what="the arena was not measured", package="tflite-micro"))
    if samples is not None and litert.installed():
        fidelity = measure.fidelity(content, model, samples)
        notes.extend([*samples.notes, *measure.clipped(content, model, samples), *_loss(fidelity)])
        notes.extend(_far_off(fidelity, quantize is not None))
        checked = samples.first(measure.AGREEMENT_SAMPLES)
        if arena is not None and macs * len(checked) <= agreement_macs:
            agreement = measure.agreement(path, model, checked, arena)
            notes.extend(_disagreement(agreement, fidelity))
        elif arena is not None:
            notes.append(
                "TensorFlow Lite Micro was not compared with LiteRT, which takes long at "
                f"{macs:,} MACs: keras_dynhp.export.device.device_report does it"
            )
    elif samples is not None:
        notes.append(_MISSING.format(what="outputs were not compared", package="ai-edge-litert"))
    return DeviceReport(
        path=os.fspath(path),
        quantize=quantize,
        flash_bytes=len(content),
        ram_bytes=arena,
        macs=macs,
        ops=measure.operators(content),
        inputs=inputs,
        outputs=outputs,
        fidelity=fidelity,
        agreement=agreement,
        npu=None if npu is None else _npu(path, npu, notes),
        notes=notes,
    )


def _npu(path: str, accelerator: str, notes: list[str]):
    if vela.installed():
        return vela.measure(path, accelerator)
    notes.append(_MISSING.format(what="the NPU was not asked", package="ethos-u-vela"))
    return None


def _loss(fidelity) -> list[str]:
    """Say what quantization cost, and what may win it back, above `TOLERATED_LOSS`."""
    if fidelity.accuracy is None or fidelity.float_accuracy - fidelity.accuracy <= TOLERATED_LOSS:
        return []
    lost = 100 * (fidelity.float_accuracy - fidelity.accuracy)
    return [
        f"the file loses {lost:.2f} points of accuracy to the Keras model"
        f"{of_output(fidelity.accuracy_output)}: "
        "keras_dynhp.export.qat.export_quantization_aware fine-tunes it with quantized arithmetic"
    ]


def _far_off(fidelity, quantized: bool) -> list[str]:
    """Warn of a file whose outputs have little to do with the model's."""
    if fidelity.worst_difference <= TOLERATED_DIFFERENCE * fidelity.spread:
        return []
    why = "nothing in it is quantized, so it is not the file of this model as it is now"
    if quantized:
        why = (
            "quantization breaks this network, or the samples are not like those it was "
            "calibrated on"
        )
    off = (
        f"the file's outputs are up to {fidelity.worst_difference:.3g} off the Keras model's, "
        f"which span {fidelity.spread:.3g}"
    )
    if fidelity.unit == WHOLE:
        off = f"{100 * fidelity.worst_difference:.1f}% of the file's outputs are not the model's"
    return _warned(f"{off}{of_output(fidelity.output)}: {why}")


def _disagreement(agreement, fidelity) -> list[str]:
    """Say how far the runtimes are apart; warn where that is more than quantization costs."""
    if agreement.unit == WHOLE and agreement.worst:
        return [
            f"TensorFlow Lite Micro and LiteRT give {100 * agreement.worst:.1f}% of the values "
            f"differently{of_output(agreement.output)}: a rounding step decides where two are near"
        ]
    if agreement.steps_apart <= 1:
        return []
    apart = (
        f"TensorFlow Lite Micro and LiteRT differ by {agreement.worst:g} quantization steps "
        f"({agreement.in_value:.3g}){of_output(agreement.output)}"
    )
    if agreement.in_value <= fidelity.worst_difference:
        return [
            f"{apart}: they round some operators differently, by one step, of which a SOFTMAX or a "
            "loop makes several"
        ]
    return _warned(
        f"{apart}, more than the file is off the Keras model ({fidelity.worst_difference:.3g}): "
        "one of the two computes an operator wrongly. Find out which before you flash it"
    )


def _warned(sentence: str) -> list[str]:
    warnings.warn(sentence, UserWarning, stacklevel=4)
    return [sentence]
