"""The peak of an epoch's training, told from the data that are in memory beside it."""

from __future__ import annotations

from keras_dynhp.memory import measure

# Bytes that come and stay for other reasons than data: metrics, constants of traced functions, and
# what the allocator hands out beyond what it was asked for.
_NOISE = 2**20

# So many batches may wait to be trained on: what an input pipeline has in memory beyond them is
# data that it keeps.
_WAITING_BATCHES = 8


class EpochPeak:
    """The most bytes that an epoch's training took, where TensorFlow's allocator reports.

    Data are not the training's: arrays that are held, what an input pipeline keeps (a buffer to
    shuffle in, a cache), the copy that tf.data makes for a moment of tensors a dataset was made
    from. They are what is in use before the first step and is neither the model's nor its
    optimizer's, and what has come when that step is done, if that is more than a few batches.

    Attributes:
        value: of the epoch that runs or was last, in bytes; None before it has been read, where it
            cannot be told from data that came meanwhile (nor from a pipeline's buffers, in an
            epoch of one step), and where nothing reports.
    """

    def __init__(self) -> None:
        self.value: int | None = None
        self._own = 0  # bytes of the variables of the model and its optimizer
        self._foreign = 0  # bytes that are not the training's: data, other models
        self._level = 0  # bytes in use when the epoch began, its pipeline's buffers included
        self._batch = 0  # bytes
        self._open = self._has_begun = False
        self._told_apart = False  # whether what buffers hold is known

    def begin_fit(self, own: int) -> None:
        """Before the first epoch, with all data in use that were there before; may come again.

        Args:
            own: bytes of the variables of the model and its optimizer.
        """
        self._has_begun, self._own = False, own
        if measure.is_available():
            self._foreign = self._held()

    def begin_epoch(self, own: int, batch: int) -> None:
        """Between two steps, before the epoch's pipeline is made.

        Once an epoch is over, only what is far more or less than before is news: validation data
        that `fit` has loaded, another model. All else is what training leaves.

        Args:
            own: bytes of the variables of the model and its optimizer.
            batch: bytes of one batch of the epoch.
        """
        self.value, self._own, self._batch = None, own, batch
        self._open = measure.is_available()
        if not self._open:
            return
        more = self._held() - self._foreign
        if self._has_begun and (more < 0 or more > max(_NOISE, 0.1 * own)):
            self._foreign += more
        self._has_begun = True
        self._level = measure.current_bytes()
        measure.reset_peak()

    def pipeline_made(self, holds_all: bool) -> None:
        """Before the first step: no step has been in what the allocator has recorded.

        Args:
            holds_all: whether the pipeline has no buffers that are still to be filled.
        """
        self._told_apart = holds_all
        if self._open:
            measure.reset_peak()

    def first_step_done(self) -> None:
        """Before the second step: the pipeline has filled its buffers."""
        self._told_apart = True
        if not self._open:
            return
        came = self._held() - self._foreign
        if came > _NOISE + _WAITING_BATCHES * self._batch:
            self._foreign += came - self._batch
            self._level += came - self._batch

    def read(self) -> None:
        """After the last step, before anything else is done: once for each epoch."""
        if not self._open:
            return
        self._open = False
        peak = measure.peak_bytes() - self._foreign
        came_to_stay = measure.current_bytes() - self._level
        # When `fit` first loads its validation data, the peak is not that of a training step.
        if self._told_apart and came_to_stay <= max(_NOISE, 0.1 * peak):
            self.value = max(0, peak)

    def _held(self) -> int:
        return measure.current_bytes() - self._own
