"""The optimizer's part of a step: its slots, and what it needs while it updates a variable."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras

from keras_dynhp.keras_state.optimizer import built_on, optimizer_tree
from keras_dynhp.keras_state.optimizer_slots import find_slots
from keras_dynhp.memory.tape import Kernel, Size, Tape, Tensor, itemsize, variable_size

# Copies of the variable that an update makes: in each expression that reads the gradient, and in
# the one that changes the variable. Read off Keras's `update_step`s and checked by measurement.
_COPIES = {
    "SGD": ((1,), 0),
    "Adam": ((1, 1), 2),
    "AdamW": ((1, 1), 2),
    "RMSprop": ((2, 1), 2),
    "Adagrad": ((1, 1), 2),
    "Adadelta": ((2, 3), 5),
    "Adamax": ((1, 2), 3),
    "Nadam": ((1, 1, 1), 4),
    "Lion": ((3, 3), 0),
    "Adafactor": ((1, 1), 3),
    "Ftrl": ((3, 3), 5),
    "Lamb": ((1, 1), 3),
}
_MOMENTUM = ((2,), 1)
_NESTEROV = ((2, 2), 0)
_UNKNOWN = ((3, 3), 5)
_SMALL = 4096

# The gradient of a table that is looked up is sliced: the rows that were looked up. Copies of these
# rows in each expression that reads the gradient, before it is spread out to the whole table. The
# first takes the place of the gradient where nothing else reads that any more.
_ROWS = {
    "SGD": (1,),
    "Adam": (0, 1),
    "AdamW": (0, 1),
    "RMSprop": (1, 1),
    "Adagrad": (1, 1),
    "Adadelta": (1, 2),
    "Adamax": (0, 1),
    "Nadam": (1, 1, 1),
    "Lion": (1, 1),
    "Adafactor": (0, 1),
    "Ftrl": (0, 1),
}
_UNKNOWN_ROWS = (2, 2, 2)
_AXES = (2, 3, 5, 7, 11, 13)


def slot_bytes(optimizer: keras.optimizers.Optimizer | None, variables: list) -> list[int]:
    """Bytes of every slot, those of an optimizer that is not built yet included.

    What an unbuilt optimizer will keep is seen on a copy of it, built on tiny variables whose axes
    have different prime lengths: a slot's shape then tells which axes of its variable it has.
    """
    if optimizer is None or not variables:
        return []
    built = {id(variable) for node in optimizer_tree(optimizer) for variable in built_on(node)}
    if {id(variable) for variable in variables} <= built:
        slots = {id(s.variable): s for node in optimizer_tree(optimizer) for s in find_slots(node)}
        return [variable_size(slot.variable).fixed for slot in slots.values()]
    ranks = sorted({len(variable.shape) for variable in variables})
    patterns, shared = _slots_by_rank(optimizer, ranks)
    own = [size(variable) for variable in variables for size in patterns[len(variable.shape)]]
    return own + shared


def _slots_by_rank(optimizer, ranks: list[int]) -> tuple[dict[int, list[Callable]], list[int]]:
    """For variables of each rank, the bytes of each slot as a function of the variable.

    And the bytes of what belongs to no variable.
    """
    models = {rank: keras.Variable(keras.ops.zeros(_AXES[:rank])) for rank in ranks}
    copy = type(optimizer).from_config(optimizer.get_config())
    copy.build(list(models.values()))
    found: dict[int, list[Callable]] = {rank: [] for rank in ranks}
    shared: list[int] = []
    ranks_of = {id(model): rank for rank, model in models.items()}
    for node in optimizer_tree(copy):
        for slot in find_slots(node):
            if slot.of is None:
                shared.append(variable_size(slot.variable).fixed)
            else:
                found[ranks_of[id(slot.of)]].append(_bytes_like(slot.variable))
    return found, shared


def _bytes_like(slot) -> Callable:
    width = itemsize(slot.dtype)

    def size(variable) -> int:
        lengths = dict(zip(_AXES, variable.shape))
        return width * math.prod(lengths.get(length, length) for length in slot.shape)

    return size


def write_updates(
    tape: Tape,
    optimizer: keras.optimizers.Optimizer | None,
    variables: list,
    pruning: bool = False,
) -> None:
    """Write down the kernels that update every variable that has a gradient.

    `pruning`: with what scores neurons before an update, and fades them after it.
    """
    pairs = [
        (tape.variables[id(variable)], tape.gradients[id(variable)])
        for variable in variables
        if id(variable) in tape.gradients
    ]
    if optimizer is None:
        tape.kernels.append(Kernel("Gradients", [gradient for _, gradient in pairs], []))
        return
    ready = _gate(tape, optimizer, [gradient for _, gradient in pairs])
    for variable, gradient in pairs:
        _update(tape, optimizer, variable, [gradient, *ready], pruning)


def _gate(tape: Tape, optimizer, gradients: list[Tensor]) -> list[Tensor]:
    """What all updates wait for, where the optimizer looks at all gradients together first."""
    waits = any(
        isinstance(node, keras.optimizers.LossScaleOptimizer)
        or getattr(node, "global_clipnorm", None)
        for node in optimizer_tree(optimizer)
    )
    if not waits:
        return []
    done = Tensor(Size(4))
    tape.kernels.append(Kernel("GlobalNorm", gradients, [done]))
    return [done]


def _update(tape: Tape, optimizer, variable: Tensor, reads: list[Tensor], pruning: bool) -> None:
    gradient = reads[0]
    if variable.size.fixed < _SMALL and not gradient.sliced:
        tape.kernels.append(Kernel("Update", reads, []))
        return
    innermost = optimizer_tree(optimizer)[-1]
    name = type(innermost).__name__
    early, late = _COPIES.get(name, _UNKNOWN)
    if isinstance(innermost, keras.optimizers.SGD) and innermost.momentum:
        early, late = _NESTEROV if innermost.nesterov else _MOMENTUM
    moments = []
    if pruning:  # the product of gradient and variable, from which gates are summed up
        scored = Tensor(Size())
        tape.kernels.append(Kernel("Gates", reads, [scored, *_copies(variable, 1)]))
        reads = [*reads, scored]
    rows = _ROWS.get(name, _UNKNOWN_ROWS) if gradient.sliced else (0, 0, 0)
    for copies, copied in zip(early, rows):
        done = Tensor(Size())
        read = reads
        if copied:
            read = _copies(gradient, copied)
            tape.kernels.append(Kernel("Rows", reads, read, in_place=True))
        tape.kernels.append(Kernel("Moment", read, [done, *_copies(variable, copies)]))
        moments.append(done)
    done = Tensor(Size())
    makes = [done, *_copies(variable, late)]
    tape.kernels.append(Kernel("Assign", moments, makes, updates=variable))
    if pruning:
        tape.kernels.append(Kernel("Fading", [done], _copies(variable, 1)))
    if any(node.use_ema for node in optimizer_tree(optimizer)):
        tape.kernels.append(Kernel("Average", [done], _copies(variable, 4)))


def _copies(tensor: Tensor, count: int) -> list[Tensor]:
    return [Tensor(tensor.size) for _ in range(count)]
