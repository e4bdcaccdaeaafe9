"""What goes over the wire, and the checks of what comes in: plain arrays, numbers and short texts.

Four kinds of content, each a Flower `RecordDict`:

| content | records |
|---|---|
| hello (server) | `plan` |
| answer (client) | `plan`, `counts` |
| order (server) | `plan`, `weights` |
| update (client) | `plan`, `counts`, `weights`, `scores` |

or, in place of an answer or update, `refused` with a reason.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from keras_dynhp.federated.layout import Layout

__all__ = ["Counts", "Plan", "Refused", "Update", "payload"]

# Changes with the meaning of the records.
PROTOCOL = 1

_MOST_EXAMPLES = 2**40
_LONGEST_REASON = 500


class Refused(ValueError):
    """What came in can't be used; the message says why.

    Attributes:
        needed: bytes of training memory that would do, where memory is the reason; else 0.
        given: ... and the budget.
    """

    def __init__(self, reason: str, needed: int = 0, given: int = 0):
        super().__init__(reason)
        self.needed = needed
        self.given = given

    def to_content(self) -> RecordDict:
        """As the content of a reply."""
        values = {"reason": str(self), "needed": self.needed, "given": self.given}
        return RecordDict({"refused": ConfigRecord(values)})

    @staticmethod
    def check(content: RecordDict) -> None:
        """Raise what is refused by a reply.

        Raises:
            Refused: with the client's reason, made printable.
        """
        if "refused" not in content:
            return
        record = _record(content, "refused", ConfigRecord)
        reason, needed, given = record.get("reason"), record.get("needed"), record.get("given")
        if not (isinstance(reason, str) and _is_count(needed, 0) and _is_count(given, 0)):
            raise Refused("the client refused, with no readable reason")
        raise Refused(re.sub(r"[^ -~]+", " ", reason)[:_LONGEST_REASON], needed, given)


@dataclass(frozen=True, eq=False)
class Plan:
    """Which network a message is about.

    Args:
        layout: of the full network, on this machine.
        whole: the part of it that the server's network is.
        part: the part of that which the client is to train.
        on_trial: the neurons that are to fade while it trains.
        number: of the round, from 1.
    """

    layout: Layout
    whole: np.ndarray
    part: np.ndarray
    on_trial: np.ndarray
    number: int

    @property
    def id(self) -> str:
        """The same exactly for the same plan of the same network."""
        bits = b"".join(np.packbits(v).tobytes() for v in (self.whole, self.part, self.on_trial))
        text = f"{PROTOCOL} {self.layout.fingerprint} {self.number} ".encode()
        return hashlib.sha256(text + bits).hexdigest()[:32]

    def to_record(self) -> ConfigRecord:
        """As a record of a message to a client."""
        return ConfigRecord(
            {
                **_version(),
                "id": self.id,
                "round": self.number,
                "whole": np.packbits(self.whole).tobytes(),
                "part": np.packbits(self.part).tobytes(),
                "on-trial": np.packbits(self.on_trial).tobytes(),
                "network": "\n".join(self.layout.describe()) if self.number == 0 else "",
            }
        )

    @classmethod
    def from_content(cls, content: RecordDict, layout: Layout) -> Plan:
        """On a client: what the server's message says, checked.

        Raises:
            Refused: if it is about another network than the client's.
        """
        record = _record(content, "plan", ConfigRecord)
        _check_version(record, "the server")
        _check_network(str(record.get("network", "")), layout)
        masks = [_mask(record, name, layout.neurons) for name in ("whole", "part", "on-trial")]
        number = record.get("round")
        if not _is_count(number, 0):
            raise Refused(f"the round must be a number from 0; received {number!r}")
        plan = cls(layout, *masks, number)
        if record.get("id") != plan.id:
            raise Refused(
                "another network: the server's has other layers than this client's, or its plan "
                "was damaged on the way"
            )
        return plan

    def reply_record(self) -> ConfigRecord:
        """As a record of the reply."""
        return ConfigRecord({**_version(), "id": self.id})

    def check_reply(self, content: RecordDict) -> None:
        """On the server: raise unless a reply is about this plan.

        Raises:
            Refused: with the reason.
        """
        record = _record(content, "plan", ConfigRecord)
        _check_version(record, "the client")
        if record.get("id") != self.id:
            raise Refused("another plan: the reply is not to the message that was sent")


@dataclass(frozen=True)
class Counts:
    """The numbers that leave a client.

    Args:
        examples: how many it trains on.
        widths: for each group, how many neurons of the server's network its memory holds.
        batch_size: of its training, 0 where there was none.
        peak_bytes: the most memory its training took, 0 where the allocator does not tell.
    """

    examples: int
    widths: list[int]
    batch_size: int = 0
    peak_bytes: int = 0

    def to_record(self) -> MetricRecord:
        """As a record of a message."""
        return MetricRecord(
            {
                "examples": self.examples,
                "widths": self.widths,
                "batch-size": self.batch_size,
                "peak-bytes": self.peak_bytes,
            }
        )

    @classmethod
    def from_content(cls, content: RecordDict, layout: Layout) -> Counts:
        """What a reply says, checked.

        Raises:
            Refused: with the reason.
        """
        record = _record(content, "counts", MetricRecord)
        names = ("examples", "batch-size", "peak-bytes")
        examples, batch_size, peak_bytes = (record.get(name) for name in names)
        if not _is_count(examples, 1) or examples > _MOST_EXAMPLES:
            raise Refused(f"`examples` must be a positive integer; received {examples!r}")
        if not (_is_count(batch_size, 0) and _is_count(peak_bytes, 0)):
            raise Refused("`batch-size` and `peak-bytes` must be integers from 0")
        widths = record.get("widths")
        if not isinstance(widths, list) or len(widths) != len(layout.sizes):
            raise Refused(f"`widths` must be {len(layout.sizes)} integers")
        if not all(_is_count(w, 1) and w <= size for w, size in zip(widths, layout.sizes)):
            raise Refused(f"`widths` must lie between 1 and {layout.sizes}; received {widths}")
        return cls(examples, widths, batch_size, peak_bytes)


@dataclass(frozen=True, eq=False)
class Update:
    """What a client has learned in a round."""

    counts: Counts
    weights: list[np.ndarray]
    scores: np.ndarray | None

    def to_content(self, plan: Plan) -> RecordDict:
        """As the content of a reply."""
        content = {
            "plan": plan.reply_record(),
            "counts": self.counts.to_record(),
            "weights": weights_record(self.weights),
        }
        if self.scores is not None:
            content["scores"] = ArrayRecord({"scores": Array(self.scores.astype(np.float32))})
        return RecordDict(content)

    @classmethod
    def from_content(cls, content: RecordDict, plan: Plan, with_scores: bool) -> Update:
        """What a reply says, checked.

        Raises:
            Refused: with the reason.
        """
        Refused.check(content)
        plan.check_reply(content)
        counts = Counts.from_content(content, plan.layout)
        weights = read_weights(content, plan.layout, plan.part)
        scores = None
        if with_scores:
            record = _record(content, "scores", ArrayRecord)
            if set(record) != {"scores"}:
                raise Refused(f"one array of scores is expected; received {sorted(record)[:5]}")
            shape = (int(plan.part.sum()),)
            scores = _values("scores", record["scores"], shape, np.dtype("float32")).astype(float)
            if (scores < 0).any():
                raise Refused("scores must not be negative")
        return cls(counts, weights, scores)


def weights_record(weights: list[np.ndarray]) -> ArrayRecord:
    """Weights as a record, named by their numbers."""
    return ArrayRecord({str(number): Array(value) for number, value in enumerate(weights)})


def read_weights(content: RecordDict, layout: Layout, part: np.ndarray) -> list[np.ndarray]:
    """The weights in a message, checked.

    Raises:
        Refused: unless they are those of the part, and finite.
    """
    record = _record(content, "weights", ArrayRecord)
    shapes = layout.shapes(part)
    if set(record) != {str(number) for number in range(len(shapes))}:
        raise Refused(f"{len(shapes)} variables are expected; received {len(record)} or others")
    return [
        _values(f"variable {number}", record[str(number)], shape, dtype)
        for number, (shape, dtype) in enumerate(zip(shapes, layout.dtypes()))
    ]


def payload(content: RecordDict) -> dict[str, int]:
    """Bytes of a message's content: of its `weights`, and of all else (`rest`)."""
    rest = 0
    for record in [*content.config_records.values(), *content.metric_records.values()]:
        for name, value in record.items():
            values = value if isinstance(value, list) else [value]
            rest += len(name) + sum(len(v) if isinstance(v, (bytes, str)) else 8 for v in values)
    arrays = {
        name: sum(len(array.data) for array in record.values())
        for name, record in content.array_records.items()
    }
    weights = arrays.pop("weights", 0)
    return {"weights": weights, "rest": rest + sum(arrays.values())}


def _values(name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array's values, read only after its own header agrees with what is expected."""
    stream = io.BytesIO(array.data)
    try:
        if array.stype != "numpy.ndarray" or np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not an array in NumPy's format 1.0")
        found, in_columns, of = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"{name} can't be read: {str(error)[:100]}") from None
    if tuple(found) != shape or of != dtype:
        raise Refused(f"{name} must have shape {shape}, {dtype}; received {found}, {of}")
    if len(array.data) - stream.tell() != int(np.prod(shape)) * dtype.itemsize:
        raise Refused(f"{name} has {len(array.data)} bytes, which don't fill shape {shape}")
    values = np.frombuffer(array.data, dtype, offset=stream.tell())
    if not np.isfinite(values).all():
        raise Refused(f"{name} holds {int((~np.isfinite(values)).sum())} values that aren't finite")
    return values.reshape(shape, order="F" if in_columns else "C")


def _version() -> dict[str, object]:
    from keras_dynhp import __version__

    return {"version": __version__, "protocol": PROTOCOL}


def _check_version(record: ConfigRecord, who: str) -> None:
    for name, ours in _version().items():
        theirs = record.get(name)
        if theirs != ours:
            raise Refused(f"another version: {who} has {name} {str(theirs)[:40]!r}, we {ours!r}")


def _check_network(theirs: str, layout: Layout) -> None:
    """Say in which group or variable a network differs; the plan's id tells whether it does."""
    ours = layout.describe()
    if theirs and theirs.split("\n") != ours:
        differs = [(a, b) for a, b in zip(theirs.split("\n"), ours) if a != b]
        first = "the server has {}, this client {}".format(*differs[0]) if differs else "more of it"
        raise Refused(f"another network: {first}")


def _mask(record: ConfigRecord, name: str, neurons: int) -> np.ndarray:
    data = record.get(name)
    if not isinstance(data, bytes) or len(data) != -(-neurons // 8):
        raise Refused(f"`{name}` must be {-(-neurons // 8)} bytes, a bit for each neuron")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=neurons).astype(bool)


def _record(content: RecordDict, name: str, kind: type):
    record = content.get(name)
    if not isinstance(record, kind):
        raise Refused(f"the message has no {kind.__name__} {name!r}")
    return record


def _is_count(value, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
