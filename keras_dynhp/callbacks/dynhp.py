"""DynHP: Dynamic Hard Pruning, the whole method in one callback."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import keras

from keras_dynhp.batching import rules
from keras_dynhp.batching.data import FitData
from keras_dynhp.batching.learning_rate import BatchRates
from keras_dynhp.batching.rules import BatchContext, BatchRule
from keras_dynhp.batching.variance import gradient_variance, read_moments
from keras_dynhp.callbacks.guard import AccuracyGuard
from keras_dynhp.callbacks.prune_and_rebuild import PruneAndRebuild
from keras_dynhp.costs.target import Target
from keras_dynhp.criteria import Criterion
from keras_dynhp.keras_state.learning_rate import current_rate
from keras_dynhp.memory.budget import Budget
from keras_dynhp.memory.epoch_peak import EpochPeak
from keras_dynhp.memory.estimate import StepMemory
from keras_dynhp.rebuild.release import pack
from keras_dynhp.sizes import format_size

_NO_LARGER = (
    "Batches stay as large as they come: their samples differ in length, so two can't be joined. "
    "Pad them all to one length to let them grow."
)
_XLA = (
    "What a step needs with XLA on a CPU (jit_compile=True) can't be foreseen: convolutions were "
    "seen to take up to 4.6 times what is estimated without. Batches are kept small for that, and "
    "a network unlike those that were measured may still exceed the budget of {budget}. Compile "
    "with jit_compile=False for larger batches inside it."
)


@keras.saving.register_keras_serializable(package="keras_dynhp")
class DynHP(PruneAndRebuild):
    """Trains inside a memory budget while the network becomes smaller and the batches larger.

    Neurons that contribute little are masked, then removed; the network is rebuilt with its
    weights and optimizer state; the memory this frees goes to larger batches, which steady
    convergence. After `fit`, the model object the user holds is a small plain Keras model.
    What frozen layers read stays whole, so of a frozen pretrained network only the features that
    new layers read may go.
    The method is that of Valerio et al., "Dynamic Hard Pruning of Neural Networks at the Edge of
    the Internet" (arXiv 2011.08545); criterion, schedule and batch rules are our own choices,
    described in the documentation.

    Args:
        budget: the most training memory: an int (bytes), or `"512KB"`, `"4MB"`. Weights,
            gradients, optimizer slots, activations, the input batch and workspace count; data
            that was in memory before the first step does not, nor what a `tf.data` pipeline keeps
            (a buffer to shuffle in, a cache). With several replicas each has as much. None: no cap.
        target: what the final network must satisfy; 4 times fewer parameters if None.
        criterion: `"taylor"`, `"magnitude"`, `"random"`, or a `Criterion`.
        schedule: `"cubic"`, `"linear"`, `"geometric"`, `"constant"`, a `Schedule`, or any callable
            from progress in [0, 1] to fraction in [0, 1].
        batch_size: what happens to the batch size that `fit` was given: `"dynamic"` grows it
            where the gradients call for it, `"memory"` to what fits the budget, `"fixed"` keeps
            it; or a `BatchRule`. Whatever the rule, it never exceeds what fits.
        prune_inputs: prune input features too; the network then begins with a gather.
        round_to: keep widths at multiples of this; 4 or 8 is what device kernels like.
        max_drop: how much of the monitored metric pruning may cost against the best epoch, such
            as 0.01; what costs more and does not recover within two epochs is undone, and pruning
            goes on more gently or stops, which the report tells. The network of before the last
            prune lies on disk meanwhile. None: whatever it takes to reach the target.
        monitor: the metric that `max_drop` is about, as it stands in the logs.

    Attributes:
        report: what went, what stayed, and what could not be followed and why; prints.

    Raises:
        BudgetError: when `fit` begins, if not even one sample fits the budget.
        TypeError, ValueError: as `PruneAndRebuild`.

    `History` and every later callback see `neurons`, `params`, `batch_size` and `train_memory`
    (bytes; measured where TensorFlow's allocator reports, estimated elsewhere) in every epoch.

    Example:

    >>> import keras, numpy as np, keras_dynhp as dynhp
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(2)]
    ... )
    >>> model.compile("adam", "mse")
    >>> x, y = np.random.rand(256, 8), np.random.rand(256, 2)
    >>> hp = dynhp.DynHP(budget="2MB", target=dynhp.Target(compression=2))
    >>> history = model.fit(x, y, epochs=6, callbacks=[hp], verbose=0)
    >>> sorted(history.history)
    ['batch_size', 'loss', 'neurons', 'params', 'train_memory']
    """

    def __init__(
        self,
        budget: int | str | None = None,
        target: Target | None = None,
        criterion: str | Criterion = "taylor",
        schedule: str | Callable[[float], float] = "cubic",
        batch_size: str | BatchRule = "dynamic",
        prune_inputs: bool = False,
        round_to: int = 1,
        max_drop: float | None = None,
        monitor: str = "val_accuracy",
    ):
        super().__init__(target, criterion, schedule, 1, prune_inputs, round_to)
        self.max_drop = max_drop
        self.monitor = monitor
        if max_drop is not None:
            self._guard = AccuracyGuard(max_drop, monitor)
        self.budget = None if budget is None else Budget(budget)
        self.batch_size = rules.get(batch_size)
        if self.budget is None and isinstance(self.batch_size, rules.Memory):
            raise ValueError(
                'batch_size="memory" fills a budget, and there is none. Give budget=, such as '
                '"4MB", or use batch_size="dynamic".'
            )
        self._fresh_rule = self.batch_size.get_state()
        self._left_off: tuple | None = None  # an optimizer, and where its schedule was
        self._data: FitData | None = None
        self._step: tuple[list, StepMemory] | None = None  # and the shapes it was written for
        self._peak = EpochPeak()
        self._has_begun = self._has_garbage = False

    # ---- Keras's calls -----------------------------------------------------------------------

    def on_train_begin(self, logs=None):
        self._has_begun, self._step = False, None
        self._peak.begin_fit(self._own_bytes())
        super().on_train_begin(logs)
        self._has_garbage = not self.on_target
        self._data = FitData.attach(self.model, self._peak)
        self._data.limits_validation = self.budget is not None
        if self._data.holds_arrays:
            self._peak.begin_fit(self._own_bytes())
        self._requested = self._data.batch_size
        optimizer = self.model.optimizer
        self._rates = BatchRates(optimizer, self.batch_size.learning_rate, self._requested)
        if self._left_off is not None and self._left_off[0] is optimizer:
            self._rates.set_state(self._left_off[1])
        if self.budget is not None:
            self.report.budget = self.budget.limit
            if not self._step_memory().is_foreseen:
                self._tell_of_xla()
            smallest = self._on_one_replica() if self._has_fixed_batch() else 1
            self.budget.check(self.model, smallest=smallest, memory=self._step_memory())
            self._set_batch_size(min(self._requested, self._largest()))

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._rates.follow(self._data)  # how many samples there are may be known by now
        if self._has_begun:
            self._tidy()
        self._estimate = self._step_memory().at(self._on_one_replica())
        self._moments = read_moments(self.model.optimizer)
        self._peak.begin_epoch(self._own_bytes(), self._estimate.inputs)
        self._has_begun = True

    def on_test_begin(self, logs=None):
        self._peak.read()  # of training; validation brings data of its own

    def on_epoch_end(self, epoch, logs=None):
        self._peak.read()
        if self.budget is not None and self._peak.value is not None:
            self.budget.observe(self._estimate, self._peak.value)
        # Before pruning: it replaces the variables whose gradients the epoch had.
        variance = gradient_variance(self.model.optimizer, self._data.batch_size, self._moments)
        super().on_epoch_end(epoch, logs)
        self._choose_batch(logs or {}, variance)

    def _begin_anew(self) -> None:
        self.batch_size.set_state(self._fresh_rule)
        if self.budget is not None:
            self.budget = Budget(self.budget.limit)

    def _pace(self) -> float:
        return self._data.pace

    def _let_go(self) -> None:
        self._left_off = self.model.optimizer, self._rates.get_state()
        self._rates.remove()
        self._data.detach()
        super()._let_go()

    def get_state(self) -> dict:
        """As `PruneAndRebuild`, and the batch size with what its rule and the budget learned."""
        return {
            **super().get_state(),
            "data": self._data.get_state(),
            "rates": self._rates.get_state(),
            "rule": self.batch_size.get_state(),
            "budget": None if self.budget is None else self.budget.get_state(),
        }

    def set_state(self, state: dict) -> None:
        """As `PruneAndRebuild`, and the batch size."""
        super().set_state(state)
        self._rates.set_state(state["rates"])
        self._data.set_state(state["data"])
        self.batch_size.set_state(state["rule"])
        if self.budget is not None and state["budget"] is not None:
            self.budget.set_state(state["budget"])

    # ---- memory and batch ----------------------------------------------------------------------

    def _tidy(self) -> None:
        """Between two steps: let what rebuilds have left in the allocator's way be gone."""
        if self.on_target and self._has_garbage:
            gc.collect()  # the train functions of before; a fifth of a second, so only once
            self._has_garbage = False
        pack([*self.model.variables, *self.model.optimizer.variables])

    def _tell_of_xla(self) -> None:
        note = _XLA.format(budget=format_size(self.budget.limit))
        self.report.notes.append(note)
        warnings.warn(note, stacklevel=3)

    def _largest(self) -> int:
        """The largest batch that fits: each replica has the budget, and its part of the batch."""
        replicas = self._data.num_replicas
        most = -(-(self._data.num_samples or 2**20) // replicas)
        return replicas * self.budget.largest_of(self._step_memory(), most)

    def _step_memory(self) -> StepMemory:
        """Of the model as it is now: written down anew only where shapes have changed."""
        shapes = [tuple(variable.shape) for variable in self.model.variables]
        if self._step is None or self._step[0] != shapes:
            optimizer, samples = self.model.optimizer, self._data.sample_shapes
            self._step = shapes, StepMemory(self.model, optimizer, pruning=True, samples=samples)
        return self._step[1]

    def _choose_batch(self, logs: dict, variance: float | None) -> None:
        before = self._data.batch_size
        optimizer = self.model.optimizer
        after = self.batch_size(
            BatchContext(
                current=before,
                requested=self._requested,
                largest=None if self.budget is None else self._largest(),
                num_samples=self._data.num_samples,
                loss=float(logs.get("loss", 1.0)),
                learning_rate=current_rate(optimizer),
                variance=variance,
            )
        )
        if after != before:
            self._set_batch_size(after)

    def _on_one_replica(self) -> int:
        """Samples in a step of one replica."""
        return -(-self._data.batch_size // self._data.num_replicas)

    def _has_fixed_batch(self) -> bool:
        """Whether the model takes batches of one size only, as stateful recurrent layers do."""
        return any(tensor.shape[0] is not None for tensor in self.model.inputs)

    def _set_batch_size(self, batch_size: int) -> None:
        if self._has_fixed_batch():
            return
        replicas = self._data.num_replicas  # which share it evenly
        batch_size = max(replicas, batch_size // replicas * replicas)
        self._data.set_batch_size(batch_size)
        if self._data.batch_size < batch_size and _NO_LARGER not in self.report.notes:
            self.report.notes.append(_NO_LARGER)
        self._rates.follow(self._data)

    def _own_bytes(self) -> int:
        """What the allocator holds of the model and its optimizer."""
        values = [v.value for v in (*self.model.variables, *self.model.optimizer.variables)]
        return sum(value.shape.num_elements() * value.dtype.size for value in values)

    def _figures(self) -> dict:
        used = self._estimate.total if self._peak.value is None else self._peak.value
        return {"batch_size": self._data.batch_size, "train_memory": used}

    def _memory(self) -> dict:
        return self._estimate.to_dict()

    def get_config(self) -> dict:
        """The constructor's arguments."""
        config = super().get_config()
        config.pop("every")
        return {
            **config,
            "budget": self.budget.limit if self.budget else None,
            "batch_size": keras.saving.serialize_keras_object(self.batch_size),
            "max_drop": self.max_drop,
            "monitor": self.monitor,
        }

    @classmethod
    def from_config(cls, config: dict) -> DynHP:
        """The callback that `get_config` describes."""
        config = dict(config)
        for name in ("target", "criterion", "schedule", "batch_size"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)
