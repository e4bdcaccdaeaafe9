"""The image columns that TensorFlow's CPU kernels lay out for a convolution's gradients."""

from __future__ import annotations

from dataclasses import dataclass

from keras_dynhp.memory.machine import Machine
from keras_dynhp.memory.tape import Size

# Constants of conv_grad_filter_ops.cc and conv_grad_input_ops.cc, whatever the processor.
_THIRD_LEVEL = 30 << 20
_SECOND_LEVEL = 256 << 10
# Of conv_grad_ops_3d.cc, which asks the processor for its cache: with more columns than this many
# times the tensors, another kernel takes over that needs none.
_MOST_COLUMNS = 25


@dataclass(frozen=True)
class Geometry:
    """One convolution, counted in values.

    Args:
        positions: output pixels of one sample.
        taps: values under the filter (height x width x input channels).
        out: output channels.
        inputs: values of one input sample.
        width: bytes of a value.
        volume: whether it is a 3D convolution.
    """

    positions: int
    taps: int
    out: int
    inputs: int
    width: int
    volume: bool = False

    @property
    def work(self) -> Size:
        """Floating point operations of one pass."""
        return Size(0, 2 * self.positions * self.taps * self.out)

    @property
    def columns(self) -> int:
        """Bytes of the columns of one sample."""
        return self.positions * self.taps * self.width

    @property
    def unit(self) -> int:
        """Values of one sample's matrix product: columns, output and filter."""
        return self.positions * (self.taps + self.out) + self.taps * self.out

    def for_filter(self, machine: Machine, batch: int) -> int:
        """Bytes of columns in the gradient of the filter.

        As many samples go into one pass as fill the cache, however small the batch is: a small
        convolution needs its 15 to 25 MB even for a batch of one.
        """
        cache = machine.cache if self.volume else _THIRD_LEVEL
        columns = -(-(cache // self.width) // self.unit) * self.columns
        return self._unless_too_many(columns, batch)

    def for_input(self, machine: Machine, batch: int) -> int:
        """Bytes of columns in the gradient of the input.

        One sample at a time where one is enough work for all threads.
        """
        enough = not self.volume and self.unit // machine.workers >= _SECOND_LEVEL // self.width
        if batch == 1 or enough:
            return self._unless_too_many(self.columns, batch)
        return self.for_filter(machine, batch)

    def _unless_too_many(self, columns: int, batch: int) -> int:
        if not self.volume:
            return columns
        tensors = batch * (self.inputs + self.positions * self.out) + self.taps * self.out
        return 0 if columns // self.width // tensors > _MOST_COLUMNS else columns
