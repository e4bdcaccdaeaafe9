"""PruneAndRebuild: the callback that prunes and rebuilds every so often."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras

from keras_dynhp import criteria, schedules
from keras_dynhp.callbacks.checks import check_alone, check_cluster, check_optimizer, check_strategy
from keras_dynhp.callbacks.company import (
    FIRST,
    has_conclusion,
    join,
    let_begin,
    log_dirs_beside,
)
from keras_dynhp.callbacks.guard import AccuracyGuard
from keras_dynhp.costs.target import Target
from keras_dynhp.criteria import Criterion
from keras_dynhp.graph.groups import check_model
from keras_dynhp.keras_state.fit import when_interrupted
from keras_dynhp.keras_state.metrics import build_metrics
from keras_dynhp.pruning.engine import Engine
from keras_dynhp.pruning.proof import DeviceProof, samples_of_fit
from keras_dynhp.report.record import Report
from keras_dynhp.report.tensorboard import Scalars

# Without a target, a quarter of the parameters stays: a size that rarely costs accuracy.
DEFAULT_TARGET = Target(compression=4)


@keras.saving.register_keras_serializable(package="keras_dynhp")
class PruneAndRebuild(keras.callbacks.Callback):
    """Prunes the model while it trains and rebuilds it smaller, with no memory control.

    At epoch ends, neurons that have been masked for an epoch and are still worth least are
    removed; the model object the user holds becomes the smaller network, with its weights and
    optimizer state. While it prunes, learning rates of what has become smaller are larger and
    dropout is weaker, inside the training step: the optimizer and the layers keep the user's
    values. `DynHP` is this with a memory budget and a batch size that follows it.

    Args:
        target: what the final network must satisfy; 4 times fewer parameters if None.
        criterion: what a neuron is worth: `"taylor"`, `"magnitude"`, `"random"`, or a `Criterion`.
        schedule: how far pruning has come as training goes: `"cubic"`, `"linear"`,
            `"geometric"`, `"constant"`, a `Schedule`, a callable from progress in [0, 1] to
            fraction in [0, 1], or a pruning schedule of tensorflow-model-optimization.
        every: prune at the end of every so many epochs, and of the last.
        prune_inputs: prune input features too; the network then begins with a gather.
        round_to: keep widths at multiples of this (4 or 8: what device kernels like).

    Attributes:
        report: what went, what stayed, and what could not be followed and why; prints.

    It is called before all other callbacks, wherever it stands in the list, so that they see the
    network and the logs as they are after pruning. A second `fit` with the same callback goes on
    from where the model is; with another model it begins anew.

    Raises:
        TargetError: when `fit` ends and all callbacks have, if the real int8 file or arena is
            above the target's `flash` or `ram`: says by how much. The model stays as it is then.
        TypeError, ValueError: from the constructor for arguments that make no sense, and when
            `fit` begins, before training, for a model, a target, a distribution strategy or
            another callback that can't work.

    Example:

    >>> import keras, numpy as np, keras_dynhp as dynhp
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(2)]
    ... )
    >>> model.compile("adam", "mse")
    >>> x, y = np.random.rand(64, 8), np.random.rand(64, 2)
    >>> hp = dynhp.PruneAndRebuild(dynhp.Target(compression=2))
    >>> history = model.fit(x, y, epochs=6, callbacks=[hp], verbose=0)
    >>> history.history["params"][0], history.history["params"][-1] <= 177
    (354, True)
    """

    prunes_the_model = True  # of which there is one in a fit
    place_among_callbacks = FIRST

    def __init__(
        self,
        target: Target | None = None,
        criterion: str | Criterion = "taylor",
        schedule: str | Callable[[float], float] = "cubic",
        every: int = 1,
        prune_inputs: bool = False,
        round_to: int = 1,
    ):
        super().__init__()
        check_cluster()
        if target is not None and not isinstance(target, Target):
            raise TypeError(
                "`target` must be a keras_dynhp.Target, such as Target(compression=10). "
                f"Received: {target!r}"
            )
        for name, value in (("every", every), ("round_to", round_to)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")
        self.target = target or DEFAULT_TARGET
        self.criterion = criteria.get(criterion)
        self.schedule = schedules.get(schedule)
        self.every = every
        self.prune_inputs = bool(prune_inputs)
        self.round_to = round_to
        self.report = Report()
        self._engine: Engine | None = None
        self._guard: AccuracyGuard | None = None
        self._proof = DeviceProof(self.target)
        self._steps = 0  # the optimizer's, when this fit began
        self._scalars: list[Scalars] = []  # for each TensorBoard callback beside this one

    @property
    def on_target(self) -> bool:
        """Whether the network is small enough now; False before the first `fit`."""
        return self._engine is not None and self._engine.on_target

    # ---- Keras's calls -----------------------------------------------------------------------

    def set_params(self, params):
        super().set_params(params)
        join(self)

    def on_train_begin(self, logs=None):
        check_model(self.model)
        check_optimizer(self.model)
        check_strategy(self.model)
        check_alone(self.model)
        if self._guard is not None:
            self._guard.begin(self.model)
        if self._engine is None or not self._engine.owns(self.model):
            if self._engine is not None:
                self._begin_anew()
            engine = Engine(
                self.model, self.target, self.criterion, self.prune_inputs, self.round_to
            )
            self._engine, self.report = engine, Report()
            self.report.begin(engine)
            if self._guard is not None:
                self._guard.reset()
        elif self._engine.follow_freezing():
            self.report.see_kept(self._engine)
        self._scalars = [Scalars(log_dir) for log_dir in log_dirs_beside(self)]
        self._proof.begin(self.model)
        self._engine.watch()
        self._steps = int(self.model.optimizer.iterations.numpy())
        when_interrupted(self.model, self._let_go)

    def on_epoch_begin(self, epoch, logs=None):
        let_begin(self, epoch, logs)
        self._check_unchanged()
        build_metrics(self.model)
        # What will have to go when this pruning interval is over is masked while it lasts.
        if epoch % self.every == 0:
            fraction = self._fraction(epoch + self.every)
            if self._guard is not None:
                fraction = self._guard.on_trial(fraction)
            self._engine.mask_next(fraction, self._pace())

    def on_epoch_end(self, epoch, logs=None):
        self._check_unchanged()
        removed = 0
        if self._has_learned(epoch, logs or {}):
            if self._guard is not None:
                self.report.notes += self._guard.see(epoch, logs or {}, self._engine)
            if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
                removed = self._prune(self._fraction(epoch + 1))
        self._tell(epoch, logs, removed)

    def on_train_end(self, logs=None):
        self._let_go()
        if self._guard is not None:
            self._guard.end()
        for scalars in self._scalars:
            scalars.close()
        self._scalars = []
        if not has_conclusion(self):
            self.conclude()

    # ---- ours --------------------------------------------------------------------------------

    def _begin_anew(self) -> None:
        """Forget what was learned in training another model."""

    def _pace(self) -> float:
        """How large the steps of the epoch that begins are, by their samples."""
        return 1.0

    def _let_go(self) -> None:
        """The fit is over, or was interrupted: leave nothing of ours in the model."""
        self._engine.release()

    def conclude(self) -> None:
        """The last word on the network that training leaves, when all other callbacks are done."""
        # Of bytes on the device the engine has estimates; on those the proof has the last word.
        missed = {n: m for n, m in self._engine.missed().items() if n not in self._proof.limits}
        self.report.end(self._engine, missed)
        self.report.device = self._proof.end(self.model, samples_of_fit)

    def _fraction(self, epochs_done: int) -> float:
        progress = min(1.0, epochs_done / self.params["epochs"])
        return schedules.schedule.fraction(
            self.schedule, progress, int(self.model.optimizer.iterations.numpy())
        )

    def _prune(self, fraction: float) -> int:
        if self._guard is not None:
            fraction = self._guard.before_prune(fraction, self._engine)
        try:
            return self._engine.prune(fraction) + self._proof.correct(self._engine)
        except Exception:
            # Scores that are not finite, a layer that can't be made anew: the model stays usable.
            self._engine.release()
            raise

    def _has_learned(self, epoch: int, logs: dict) -> bool:
        """Whether there is anything to judge neurons by after an epoch; if not, the report says."""
        if int(self.model.optimizer.iterations.numpy()) == self._steps:
            why = f"no step of {self.model.optimizer.name!r}, the optimizer it was compiled with"
        elif not self._engine.has_evidence:
            why = "no gradient of a weight that reads a prunable neuron"
        elif self.model.stop_training and not math.isfinite(logs.get("loss", 0.0)):
            why = f"a loss of {logs['loss']}, for which another callback stopped training"
        else:
            return True
        self.report.notes.append(f"Epoch {epoch + 1} pruned nothing: it had {why}.")
        return False

    def _check_unchanged(self) -> None:
        if not self._engine.owns(self.model):
            what = "layers of the model were changed"
            remedy = "Change them before `fit`, or between two calls of it"
        elif self._engine.optimizer is not self.model.optimizer:
            what = "the model was compiled again"
            remedy = "Compile before `fit`, or between two calls of it"
        else:
            return
        self._engine.release()
        raise ValueError(
            f"While {type(self).__name__} was pruning {self.model.name!r} in a running fit, {what} "
            f"by something else. {remedy}: the same callback then goes on from there."
        )

    def _tell(self, epoch: int, logs: dict | None, removed: int) -> None:
        """Tell History, later callbacks and the report."""
        figures = {"neurons": self._engine.neurons, "params": self.model.count_params()}
        figures.update(self._figures())
        if logs is not None:
            logs.update(figures)
        self.report.epoch(epoch, self._engine, logs or figures, removed, self._memory())
        for scalars in self._scalars:
            scalars.write(self.report.epochs[-1], self.report.budget)

    def _figures(self) -> dict:
        """What else History and later callbacks are told."""
        return {}

    def _memory(self) -> dict | None:
        """Training memory by kind, for the report."""
        return None

    def get_state(self) -> dict:
        """What training goes on with, network included, as plain values and arrays."""
        return {
            "engine": self._engine.get_state(),
            "report": self.report.to_dict(),
            "guard": None if self._guard is None else self._guard.get_state(),
        }

    def set_state(self, state: dict) -> None:
        """In a fit that has just begun on the full network: go on from a state.

        Raises:
            ValueError: the state is that of another network, or of another optimizer.
        """
        if self._guard is not None and state["guard"] is not None:
            self._guard.set_state(state["guard"], self._engine)
        self._engine.set_state(state["engine"])
        self.report = Report.from_dict(state["report"])

    def get_config(self) -> dict:
        """The constructor's arguments."""
        serialize = keras.saving.serialize_keras_object
        return {
            "target": serialize(self.target),
            "criterion": serialize(self.criterion),
            "schedule": serialize(self.schedule),
            "every": self.every,
            "prune_inputs": self.prune_inputs,
            "round_to": self.round_to,
        }

    @classmethod
    def from_config(cls, config: dict) -> PruneAndRebuild:
        """The callback that `get_config` describes."""
        config = dict(config)
        for name in ("target", "criterion", "schedule"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)
