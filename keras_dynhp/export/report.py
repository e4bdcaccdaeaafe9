"""What a .tflite file costs on a device and how well it does there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Operator:
    """An operator of the file: its TensorFlow Lite name, version, and number of uses."""

    name: str
    version: int
    count: int


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: real number = (stored number - zero_point) * scale; scale 0: none."""

    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0


# The unit of differences of whole numbers, of which one more or less means nothing.
WHOLE = "share of values that differ"


@dataclass(frozen=True)
class Agreement:
    """TensorFlow Lite Micro against the LiteRT interpreter on the same samples.

    `worst` is the largest difference of any output value in `unit`s, `in_value` in real numbers;
    `equal` is the share of values that are the same; `output` names the output that is furthest
    off where there are several, and is what these are about. Of whole numbers such as classes,
    `worst` is the share of values that differ.
    """

    samples: int
    worst: float
    unit: str
    equal: float
    in_value: float
    output: str | None = None

    @property
    def steps_apart(self) -> float:
        """The worst difference in quantization steps; 0 for outputs without quantization."""
        return self.worst if self.unit.startswith("quantization") else 0.0

    def __str__(self) -> str:
        if self.unit == WHOLE:
            return (
                f"{100 * self.equal:.1f}% of values equal on {self.samples} samples"
                f"{of_output(self.output)}"
            )
        return (
            f"within {self.worst:.3g} {self.unit} on {self.samples} samples, "
            f"{100 * self.equal:.1f}% of values equal{of_output(self.output)}"
        )


@dataclass(frozen=True)
class NpuReport:
    """What Vela says of the file on an Arm Ethos-U (bytes, cycles of one inference)."""

    accelerator: str
    sram_bytes: int
    flash_bytes: int
    cycles: int
    npu_operators: int
    cpu_operators: int
    cpu_fallbacks: tuple[str, ...] = ()

    def __str__(self) -> str:
        fallback = f"{self.cpu_operators} operators on the CPU"
        if self.cpu_fallbacks:
            fallback += f" ({', '.join(self.cpu_fallbacks)})"
        return (
            f"{self.accelerator}: {self.sram_bytes:,} bytes SRAM, {self.flash_bytes:,} bytes "
            f"flash, {self.cycles:,} cycles, {fallback}"
        )


@dataclass(frozen=True)
class Fidelity:
    """The file against the Keras model on the same samples.

    Accuracies are shares in [0, 1] of samples whose class is right, None without labels;
    `worst_difference` is the largest difference of any output value, `spread` the range of the
    Keras model's. Of several outputs these are of the one that is furthest off for its range,
    `output`, and the accuracies of the one that loses most, `accuracy_output`. Of whole numbers
    such as classes (`unit` says so), `worst_difference` is the share of values that differ.
    """

    samples: int
    worst_difference: float
    spread: float
    float_accuracy: float | None = None
    accuracy: float | None = None
    output: str | None = None
    accuracy_output: str | None = None
    unit: str = "in value"


def of_output(name: str | None) -> str:
    """What a sentence about one output of several has at its end."""
    return "" if name is None else f" (output {name!r})"


@dataclass(frozen=True)
class DeviceReport:
    """What a device needs for a .tflite file, measured, and how the file does.

    Attributes:
        path: the file.
        quantize: None (float32), "int8" or "int16x8".
        flash_bytes: size of the file.
        ram_bytes: tensor arena that TensorFlow Lite Micro needs (64-bit build: an upper bound for
            a 32-bit device); None where tflite-micro is not installed, `notes` says so.
        macs: multiply-accumulates of one inference.
        ops: the operators, each with version and count.
        inputs, outputs: shapes, number types and quantization.
        fidelity: accuracy and worst difference against the Keras model; None without samples.
        agreement: TensorFlow Lite Micro against the LiteRT interpreter; None where not run.
        npu: Vela's figures for an Ethos-U; None where not asked for.
        notes: plain statements of what could not be measured or is computed in another way, and
            warnings.
    """

    path: str
    quantize: str | None
    flash_bytes: int
    ram_bytes: int | None
    macs: int
    ops: list[Operator]
    inputs: list[TensorInfo] = field(default_factory=list)
    outputs: list[TensorInfo] = field(default_factory=list)
    fidelity: Fidelity | None = None
    agreement: Agreement | None = None
    npu: NpuReport | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def float_accuracy(self) -> float | None:
        """Accuracy of the Keras model on the labelled samples given, or None."""
        return self.fidelity.float_accuracy if self.fidelity else None

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the file on the labelled samples given, or None."""
        return self.fidelity.accuracy if self.fidelity else None

    def to_dict(self) -> dict:
        """Plain types, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(f"{name:<18}{value}" for name, value in self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """The report as pairs of a name and a printed value."""
        rows = [("file", f"{self.path} ({self.quantize or 'float32'})")]
        rows.append(("flash", f"{self.flash_bytes:,} bytes"))
        arena = "not measured" if self.ram_bytes is None else f"{self.ram_bytes:,} bytes"
        rows.append(("arena", arena))
        rows.append(("MACs", f"{self.macs:,}"))
        listed = (f"{op.name} v{op.version} x{op.count}" for op in self.ops)
        rows.append(("operators", ", ".join(listed)))
        fidelity = self.fidelity
        if fidelity is not None:
            if fidelity.accuracy is not None:
                rows.append(
                    (
                        "accuracy",
                        f"{100 * fidelity.accuracy:.2f}% (Keras {100 * fidelity.float_accuracy:.2f}"
                        f"%) on {fidelity.samples} samples{of_output(fidelity.accuracy_output)}",
                    )
                )
            off, where = fidelity.worst_difference, of_output(fidelity.output)
            if fidelity.unit == WHOLE:
                rows.append(("same as Keras", f"{100 * (1 - off):.2f}% of the values{where}"))
            else:
                span = f"to Keras, whose outputs span {fidelity.spread:.3g}{where}"
                rows.append(("worst difference", f"{off:.3g} {span}"))
        if self.agreement is not None:
            rows.append(("TFLM and LiteRT", str(self.agreement)))
        if self.npu is not None:
            rows.append(("NPU", str(self.npu)))
        rows.extend(("note", note) for note in self.notes)
        return rows
