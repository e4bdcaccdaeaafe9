"""PruningHyperModel: a model-building function, searched for how hard to prune it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import keras
import keras_tuner

from keras_dynhp.callbacks.dynhp import DynHP
from keras_dynhp.costs.target import Target
from keras_dynhp.errors import BudgetError, TargetError
from keras_dynhp.tuner import scoring
from keras_dynhp.tuner.checkpoint import Checkpoint, LoadsPruned, Stage
from keras_dynhp.tuner.rates import FullNetwork
from keras_dynhp.tuner.space import Space, callback_arguments
from keras_dynhp.tuner.warm_up import WarmUp, project_of, warm_up_folder


class PruningHyperModel(keras_tuner.HyperModel):
    """Searches how hard to prune, and whatever a model-building function searches itself.

    Give it to any tuner of Keras Tuner (`RandomSearch`, `Hyperband`, `BayesianOptimization`,
    `GridSearch`); each trial trains with a `DynHP` of its own. A trial reports the metrics of the
    finished network (not of its best epoch, which is one of the full network), with its
    `params`, `macs` and `train_memory` in bytes, and `get_best_models` returns the pruned
    networks. A network that can't be trained in the budget is a failed trial; one that misses its
    target is scored worse than any that meets it, and says by which share in `missed`.

    Args:
        build_model: a function of `hp` that returns a compiled model, or a `HyperModel`, whose own
            `fit` is then called; it must hand `callbacks` on to `model.fit`.
        search: what to search: names among `"compression"` (or one of `"params"`, `"macs"`,
            `"flash"`, `"ram"`, `"rates"` in its place), `"criterion"`, `"schedule"`, `"start"`,
            `"end"`, `"batch_size"`, `"prune_inputs"`, `"round_to"`; or a dict from such names to
            a list to choose from, a range `(low, high)`, or one value for all trials. `"rates"`
            searches the share that goes of each channel group by itself; a dict from names of
            groups to their values leaves the other groups whole.
        target_range: `(low, high)` of the limit that is searched: 2 to 20 times fewer parameters,
            or rates of 0 to 0.9, if None.
        budget: the training memory of each trial, as `DynHP` takes it.
        limits: a `Target` that every trial has to meet besides, such as
            `Target(flash="64KB", ram="16KB")`.
        measure: `"flash"`, `"ram"`: measured of the int8 file of each finished network, to be
            objectives or axes of a `ParetoFront`; those in `limits` always are.
        share_warm_up: trials with equal beginnings train them once; needs `fit` not overridden.

    Raises:
        ValueError, TypeError: for settings that are unknown or make no sense.

    Example:

    >>> import keras, keras_tuner, tempfile, numpy as np, keras_dynhp.tuner as tuning
    >>> def build_model(hp):
    ...     model = keras.Sequential(
    ...         [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(2)]
    ...     )
    ...     model.compile("adam", "mse")
    ...     return model
    >>> tuner = keras_tuner.RandomSearch(
    ...     tuning.PruningHyperModel(build_model, target_range=(2, 5)),
    ...     objective="val_loss",
    ...     max_trials=2,
    ...     directory=tempfile.mkdtemp(),
    ... )
    >>> x, y = np.random.rand(64, 8), np.random.rand(64, 2)
    >>> tuner.search(x, y, epochs=4, validation_data=(x, y), verbose=0)
    >>> tuner.get_best_models()[0].count_params() <= 354 / 2
    True
    """

    def __init__(
        self,
        build_model: Callable | keras_tuner.HyperModel,
        search: Iterable[str] | Mapping = ("compression",),
        target_range: tuple | None = None,
        budget: int | str | None = None,
        limits: Target | None = None,
        measure: Iterable[str] = (),
        share_warm_up: bool = True,
    ):
        super().__init__()
        if not callable(build_model) and not isinstance(build_model, keras_tuner.HyperModel):
            raise TypeError(
                "`build_model` must be a function of `hp` that returns a compiled model, or a "
                f"keras_tuner.HyperModel. Received: {build_model!r}"
            )
        if limits is not None and not isinstance(limits, Target):
            raise TypeError(f"`limits` must be a keras_dynhp.Target. Received: {limits!r}")
        unknown = set(measure) - set(scoring.ON_DEVICE)
        if unknown:
            raise ValueError(f'`measure` knows "flash" and "ram". Received: {sorted(unknown)}')
        self._user = build_model if isinstance(build_model, keras_tuner.HyperModel) else None
        self._build_model = self._user.build if self._user else build_model
        self._space = Space.of(search, target_range)
        self._budget = budget
        self._limits = limits
        self._measure = tuple(measure)
        self._share_warm_up = share_warm_up

    def declare_hyperparameters(self, hp) -> None:
        """As `HyperModel.declare_hyperparameters`."""
        if self._user is not None:
            self._user.declare_hyperparameters(hp)

    def build(self, hp) -> keras.Model:
        """The full network, with what is searched made known to `hp`."""
        model = self._build_model(hp)
        if isinstance(model, keras.Model):
            self._space.settings(hp, LoadsPruned(model).full)
        return model

    def fit(self, hp, model: keras.Model, *args, **kwargs) -> dict:
        """Train and prune one trial; called by the tuner.

        Returns:
            The metrics of the finished network.
        """
        loader = LoadsPruned.of(model)
        loader.leave()
        callbacks = list(kwargs.pop("callbacks", None) or [])
        checkpoint = Checkpoint(callbacks)
        pruner = self.callback(hp, loader.full)
        kwargs["callbacks"] = [pruner, *callbacks]
        try:
            if self._user is not None:
                results = self._user.fit(hp, model, *args, **kwargs)
            else:
                kwargs = self._branched(hp, model, pruner, checkpoint, args, kwargs)
                results = model.fit(*args, **kwargs)
        except TargetError:  # trained to the end, and too large all the same: scored as that
            results = model.history
        except BudgetError as error:
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        metrics = self._score(model, pruner, checkpoint, results, args, kwargs)
        checkpoint.save_if_best(model, [*loader.stages, _stage(pruner)], metrics)
        return metrics

    def callback(self, hp, full: FullNetwork) -> DynHP:
        """The pruning callback of a trial.

        Args:
            hp: its hyperparameters.
            full: the network before any pruning.
        """
        settings = self._space.settings(hp, full)
        limits = self._limits.get_config() if self._limits else {}
        limits = {name: value for name, value in limits.items() if value is not None}
        if "compression" in limits:
            limits["params"] = min(
                int(full.parameters / limits.pop("compression")), limits.get("params", 2**62)
            )
        for name, value in self._space.limits(settings, full).items():
            limits[name] = min(value, limits.get(name, value))
        arguments = callback_arguments(settings, full)
        return DynHP(budget=self._budget, target=Target(**limits), **arguments)

    def _branched(self, hp, model, pruner, checkpoint, args, kwargs) -> dict:
        """The arguments of `fit`, such that it begins after the epochs another trial has done."""
        epochs = kwargs.get("epochs", 1)
        if not self._share_warm_up or checkpoint.path is None or kwargs.get("initial_epoch"):
            return kwargs
        project = project_of(checkpoint.path)
        warm_up = WarmUp(warm_up_folder(project, model, pruner, hp, (args, kwargs)), pruner, epochs)
        kwargs = {**kwargs, "callbacks": [*kwargs["callbacks"], warm_up]}
        return {**kwargs, "initial_epoch": warm_up.epochs_done}

    def _score(self, model, pruner, checkpoint, results, args, kwargs) -> dict:
        target = pruner.target
        limited = [name for name, value in target.get_config().items() if value is not None]
        data = args[0] if args else kwargs.get("x")
        metrics = scoring.last_epoch(results, checkpoint.objective)
        metrics.update(scoring.figures(model, [*limited, *self._measure], data))
        return scoring.scored(metrics, checkpoint.objective, scoring.excess(metrics, target))


def _stage(pruner: DynHP) -> Stage:
    """What the training of a trial removed."""
    if not pruner.report.epochs:
        raise keras_tuner.errors.FatalValueError(
            "The trial was trained without its pruning callback: HyperModel.fit(hp, model, *args, "
            "**kwargs) must hand `callbacks`, which is among its keyword arguments, to model.fit."
        )
    removed = pruner.get_state()["engine"]["removed"]
    return Stage(pruner.prune_inputs, [removed[name] for name in removed])
