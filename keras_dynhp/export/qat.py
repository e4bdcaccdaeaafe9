"""Quantization-aware fine-tuning with tensorflow-model-optimization, which is of Keras 2."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from keras_dynhp.export import litert
from keras_dynhp.export.convert import Converted, run_converter
from keras_dynhp.export.data import Samples, read_samples
from keras_dynhp.export.device import build_report
from keras_dynhp.export.legacy import in_tf_keras, operations
from keras_dynhp.export.report import DeviceReport
from keras_dynhp.export.tflite import check_model, check_place, export_tflite, write_and_report

# What the default 8-bit scheme folds into the kernel before it, or takes apart.
_TRANSFORMED = {"BatchNormalization", "SeparableConv2D", "InputLayer"}


def export_quantization_aware(
    model: keras.Model,
    path: str,
    training_data,
    data=None,
    epochs: int = 3,
    learning_rate: float = 1e-4,
    margin: float | None = None,
) -> DeviceReport:
    """Fine-tune a copy of a model with int8 arithmetic in the forward pass, and export that.

    For a network whose int8 file loses too much: the copy learns to live with rounded weights and
    activations. The given model stays as it is.

    Args:
        model: a compiled Sequential or Functional Keras 3 model; its loss is what is minimized.
        path: the .tflite file to write.
        training_data: `(x, y)` arrays, or a `tf.data.Dataset` of `(x, y)` batches.
        data: labelled samples for the report, as `export_tflite` takes them; better not the
            training data. None: the first of the training data.
        epochs: passes over the training data.
        learning_rate: of Adam.
        margin: None fine-tunes in any case. A share, such as 0.003: the model is first exported as
            it is, and if its int8 accuracy is no more than that below float, that is the result.

    Returns:
        The `DeviceReport`; a note says how far the file is from what it was trained as.

    Raises:
        ImportError: without tensorflow-model-optimization and tf-keras.
        ValueError: for layers that cannot be quantized so, by name; a model that is not compiled;
            and what `export_tflite` refuses.
        OSError: where `path` cannot be written; known before the work begins.
    """
    _need_extra()
    check_model(model)
    if getattr(model, "loss", None) is None:
        raise ValueError(f"{model.name!r} has no loss to minimize: compile it first.")
    if len(model.outputs) > 1:
        raise ValueError(
            f"{model.name!r} has {len(model.outputs)} outputs, and fine-tuning minimizes the loss "
            "of one. Use export_tflite(..., quantize='int8'), or give the copy one output."
        )
    _refuse_layers(model)
    check_place(path)
    training_data = _batches(training_data)
    seen = read_samples(model, training_data, most=500)
    samples = seen if data is None else read_samples(model, data, most=None)
    plain = None
    if margin is not None:
        export_tflite(model, path, "int8", seen.inputs if len(seen.inputs) > 1 else seen.inputs[0])
        with open(path, "rb") as file:
            plain = build_report(path, file.read(), model, samples)
        if plain.accuracy is None:
            raise ValueError("margin needs data with labels (classes): no accuracy can be had.")
        if plain.float_accuracy - plain.accuracy <= margin:
            return plain
    trained = _fine_tune(model, training_data, epochs, learning_rate)
    converted = _convert(trained, model)
    report = write_and_report(path, lambda: converted, model, samples)
    notes = [note for note in report.notes if "export_quantization_aware" not in note]
    notes.append(_agreement(converted, trained, samples))
    if plain is not None and report.accuracy < plain.accuracy:
        notes.append(
            f"fine-tuning made it worse ({100 * plain.accuracy:.2f}% without it): use a smaller "
            "learning_rate, or more epochs"
        )
    return replace(report, notes=notes)


def missing_packages() -> list[str]:
    """What of the `qat` extra is not installed."""
    return [
        name
        for name, module in (
            ("tensorflow-model-optimization", "tensorflow_model_optimization"),
            ("tf-keras", "tf_keras"),
        )
        if importlib.util.find_spec(module) is None
    ]


def _need_extra() -> None:
    missing = missing_packages()
    if missing:
        raise ImportError(
            f"quantization-aware fine-tuning needs {' and '.join(missing)}: "
            'pip install "keras-dynhp[qat]"'
        )


def _refuse_layers(model: keras.Model) -> None:
    """Name every layer that tensorflow-model-optimization has no quantized form of."""
    import tf_keras
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry as default,
    )

    registry = default.Default8BitQuantizeRegistry()

    def quantizable(name: str) -> bool:
        known = getattr(tf_keras.layers, name, None)
        return name in _TRANSFORMED or (known and registry._is_supported_layer(known))

    refused = [
        f"{operation.name} ({type(operation).__name__})"
        for operation in operations(model)
        if not quantizable(type(operation).__name__)
    ]
    if refused:
        raise ValueError(
            "tensorflow-model-optimization cannot quantize: "
            f"{', '.join(dict.fromkeys(refused))}. Use export_tflite(..., quantize='int8'), which "
            "calibrates after training, or quantize='int16x8'."
        )


def _batches(training_data) -> tf.data.Dataset:
    if isinstance(training_data, tf.data.Dataset):
        return training_data
    x, y = training_data
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y), seed=0).batch(32)


def _fine_tune(model: keras.Model, data: tf.data.Dataset, epochs: int, learning_rate: float):
    """The tf_keras copy with fake quantization, trained."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    loss = keras.losses.get(model.loss)
    try:
        copy = tfmot.quantization.keras.quantize_model(in_tf_keras(model))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"tensorflow-model-optimization cannot quantize {model.name!r}: {error}"
        ) from error
    copy.compile(tf_keras.optimizers.Adam(learning_rate), loss=lambda y, made: loss(y, made))
    copy.fit(data, epochs=epochs, verbose=0)
    return copy


def _convert(trained, model: keras.Model) -> Converted:
    specs = [
        tf.TensorSpec((1, *tensor.shape[1:]), tf.float32, name=f"input_{number}")
        for number, tensor in enumerate(model.inputs)
    ]

    def run(*inputs):
        outputs = trained(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
        return {f"output_{n}": value for n, value in enumerate(tf.nest.flatten(outputs))}

    def configure(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = tf.int8

    concrete = tf.function(run, autograph=False).get_concrete_function(*specs)
    return run_converter(concrete, list(trained.variables), configure)


def _agreement(converted: Converted, trained, samples: Samples) -> str:
    """How far the file is from the fake-quantized network it was trained as, in output steps."""
    interpreter = litert.make_interpreter(converted.content)
    made = litert.run(interpreter, samples.inputs)[0]
    inputs = samples.inputs[0] if len(samples.inputs) == 1 else samples.inputs
    wanted = np.asarray(tf.nest.flatten(trained.predict(inputs, verbose=0))[0])
    scale = interpreter.get_output_details()[0]["quantization"][0]
    steps = np.abs(made - wanted) / scale
    return (
        f"quantization-aware: the file is within {steps.max():.1f} steps ({steps.max() * scale:.3g}"
        f") of the network it was trained as, {steps.mean():.2f} on average, on {len(made)} samples"
    )
