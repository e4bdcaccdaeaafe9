"""DynHPClient: a client's part of a federated run, called from a Flower ClientApp."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import keras
import numpy as np
from flwr.app import Context, Message, RecordDict

from keras_dynhp.callbacks.prune_and_rebuild import PruneAndRebuild
from keras_dynhp.errors import BudgetError
from keras_dynhp.federated.blank import blank_weights
from keras_dynhp.federated.client_state import recall, recall_budget, remember
from keras_dynhp.federated.fitting import SMALLEST_BATCH, widths_that_fit
from keras_dynhp.federated.layout import Layout
from keras_dynhp.federated.live import LiveNetwork
from keras_dynhp.federated.messages import Counts, Plan, Refused, Update, read_weights
from keras_dynhp.keras_state.optimizer import hook_update_step, variable_key
from keras_dynhp.keras_state.strided import sidestep_strided_kernels
from keras_dynhp.memory import measure
from keras_dynhp.memory.budget import Budget
from keras_dynhp.memory.estimate import StepMemory
from keras_dynhp.pruning.dropout import weaken_dropout
from keras_dynhp.pruning.fading import Fading
from keras_dynhp.pruning.gates import GateMeter
from keras_dynhp.pruning.pace import learning_rate_factor, shrinkage
from keras_dynhp.rebuild.release import release_variable

__all__ = ["DynHPClient"]


class DynHPClient:
    """Trains the network that a `DynHPStrategy` sends, on data that stays where it is.

    In each round it builds the network that it is told to, continues with what survives of its
    own optimizer's state, trains with plain `model.fit`, and answers with weights, counts, and one
    score for each neuron. If the budget can't hold the server's network, it gets a part of it.

    Args:
        build_model: makes the full network, compiled; the same as on the server but for the
            values of its weights, which it is made without.
        data: the arrays `(x, y)` to train on.
        budget: the most memory that training may take: bytes, or a string such as `"8MB"`. The
            arrays of `data` don't count: batches are cut from them one at a time. None: no cap.
        batch_size: examples in a step; fewer where the budget holds no more.
        epochs: passes over the data in a round.
        callbacks: for each round's `fit`, made anew with the client. Epochs are counted on from
            round to round, so that `LearningRateScheduler` lets rates fall over the whole run:
            where clients differ in their data, averages only settle if they do (Li et al., arXiv
            1907.02189).

    Raises:
        TypeError, ValueError: for arguments that make no sense.

    Example, a ClientApp:

    >>> from flwr.clientapp import ClientApp
    >>> app = ClientApp()
    >>> def client(context):
    ...     model = lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    ...     x, y = np.zeros((16, 8), "float32"), np.zeros(16, "int32")
    ...     return DynHPClient(model, (x, y), budget=context.node_config["budget"])
    >>> @app.query()
    ... def query(message, context):
    ...     return client(context).query(message, context)
    >>> @app.train()
    ... def train(message, context):
    ...     return client(context).train(message, context)
    """

    def __init__(
        self,
        build_model: Callable[[], keras.Model],
        data: tuple[np.ndarray, np.ndarray],
        budget: int | str | None = None,
        batch_size: int = 32,
        epochs: int = 1,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ):
        if not callable(build_model) or isinstance(build_model, keras.Model):
            raise TypeError(
                "`build_model` must be a function without arguments that returns a compiled model: "
                f"each round begins with a new one. Received: {build_model!r}"
            )
        if not (isinstance(data, tuple) and len(data) == 2 and len(data[0]) == len(data[1])):
            raise ValueError("`data` must be two arrays (x, y) of the same length.")
        for name, value in (("batch_size", batch_size), ("epochs", epochs)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")
        callbacks = keras.tree.flatten(callbacks)
        for callback in callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise TypeError(f"`callbacks` must be Keras callbacks. Received: {callback!r}")
            if isinstance(callback, PruneAndRebuild):
                raise ValueError(
                    f"The server decides what is pruned. Received a {type(callback).__name__} in "
                    "`callbacks`: give its target, criterion and schedule to DynHPStrategy."
                )
        self.build_model = build_model
        self.data = data
        self.budget = None if budget is None else Budget(budget, pipeline=False)
        self.batch_size = batch_size
        self.epochs = epochs
        self.callbacks = callbacks
        self._others = 0

    def query(self, message: Message, context: Context) -> Message:
        """Answer the server's question what this client can do."""
        return self._reply(self._answer, message, context)

    def train(self, message: Message, context: Context) -> Message:
        """Train for a round; the reply holds what was learned, or why nothing was."""
        return self._reply(self._train, message, context)

    def _reply(self, work: Callable, message: Message, context: Context) -> Message:
        # A process may serve many clients: what others left in memory isn't this one's.
        self._others = measure.current_bytes() if measure.is_available() else 0
        try:
            with self._new_model() as model:
                content = work(model, message.content, context)
        except BudgetError as error:
            content = Refused(str(error), error.needed, error.given).to_content()
        except Refused as error:
            content = error.to_content()
        return Message(content, reply_to=message)

    @contextlib.contextmanager
    def _new_model(self):
        """The full network, whose memory is given back in the end."""
        with blank_weights() as blank:
            model = self.build_model()
        if not (isinstance(model, keras.Model) and model.compiled):
            raise ValueError(
                "`build_model` must return a compiled keras.Model, as it is to be trained. "
                f"Received: {model!r}"
            )
        blank.fill_others(model)
        self._check_data(model)
        try:
            yield model
        finally:
            # A process that serves many clients would keep them all: functions once traced do.
            for variable in [*model.variables, *model.optimizer.variables]:
                release_variable(variable)

    def _check_data(self, model: keras.Model) -> None:
        x, y = self.data
        if not len(x):
            raise Refused("this client has no examples")
        classes = model.output_shape[-1] if isinstance(model.output_shape, tuple) else None
        y = np.asarray(y)
        if y.ndim == 1 and y.dtype.kind in "iu" and classes and classes > 1 and y.max() >= classes:
            raise Refused(f"a label of this client is {y.max()}; the network has {classes} classes")

    def _answer(self, model: keras.Model, content: RecordDict, context: Context) -> RecordDict:
        layout = Layout(model)
        plan = Plan.from_content(content, layout)
        widths = self._widths(layout, plan.whole, model)
        counts = Counts(len(self.data[0]), widths)
        return RecordDict({"plan": plan.reply_record(), "counts": counts.to_record()})

    def _widths(self, layout: Layout, whole: np.ndarray, model: keras.Model) -> list[int]:
        """What of the server's network this client's memory holds."""
        if self.budget is None:
            return layout.widths(whole)
        least = min(SMALLEST_BATCH, self.batch_size)
        return widths_that_fit(layout, whole, self.budget, model, least, self._sample)

    def _train(self, model: keras.Model, content: RecordDict, context: Context) -> RecordDict:
        live = LiveNetwork(model)
        plan = Plan.from_content(content, live.layout)
        weights = read_weights(content, live.layout, plan.part)
        if self.budget is not None:
            recall_budget(context, self.budget)
        widths = live.layout.widths(plan.whole)
        if not np.array_equal(plan.part, plan.whole):
            widths = self._widths(live.layout, plan.whole, model)
        live.shrink(plan.part, values=False)
        live.set_weights(weights)
        del weights
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
        recall(context, live)
        batch_size = self._fitting_batch(model)
        meter = GateMeter(live.groups, optimizer)
        peak = self._fit(live, plan, meter, batch_size)
        scores = live.flat(meter.means(), 0.0)[live.part]
        remember(context, live, self.budget)
        counts = Counts(len(self.data[0]), widths, batch_size, peak)
        return Update(counts, live.weights(), scores).to_content(plan)

    def _fitting_batch(self, model: keras.Model) -> int:
        if self.budget is None:
            return self.batch_size
        memory = self._step_memory(model)
        largest = self.budget.largest_of(memory, self.batch_size)
        if not largest:
            self.budget.check(model, memory=memory)
        return largest

    def _step_memory(self, model: keras.Model) -> StepMemory:
        return StepMemory(model, model.optimizer, pruning=True, samples=[self._sample])

    @property
    def _sample(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return np.shape(self.data[0])[1:]

    def _fit(self, live: LiveNetwork, plan: Plan, meter: GateMeter, batch_size: int) -> int:
        """Train; returns the peak of memory in bytes, 0 where the allocator does not tell."""
        model, optimizer = live.model, live.model.optimizer
        batches = Batches(*self.data, batch_size, seed=plan.number)
        stays = {name: ~mask for name, mask in live.by_group(plan.on_trial).items()}
        trial = Fading(live.groups, stays, optimizer, len(batches) * self.epochs)
        full = live.full_widths()
        times_smaller = shrinkage(live.groups, full)
        shrunk = {
            variable_key(optimizer, v): times_smaller.get(id(v), 1.0)
            for v in model.trainable_variables
        }

        def before(gradient, variable):
            return meter.read(variable_key(optimizer, variable), gradient, variable)

        def after(variable):
            trial.after_update(variable_key(optimizer, variable), variable)

        def pace(leaf, variable):
            return learning_rate_factor(leaf, shrunk[variable_key(optimizer, variable)])

        unhook = hook_update_step(optimizer, before, after, pace)
        give_back = weaken_dropout(live.groups, full)
        sidestep_strided_kernels(model)
        tells = measure.is_available()
        if tells:
            measure.reset_peak()
        done = (plan.number - 1) * self.epochs
        model.fit(
            batches,
            initial_epoch=done,
            epochs=done + self.epochs,
            callbacks=self.callbacks,
            verbose=0,
        )
        unhook()
        give_back()
        peak = max(0, measure.peak_bytes() - self._others) if tells else 0
        if tells and self.budget is not None:
            estimate = self._step_memory(model).at(batch_size)
            self.budget.observe(estimate, peak)
        return peak


class Batches(keras.utils.PyDataset):
    """Batches of arrays in a random order, cut when they are needed.

    `fit` would hold the arrays themselves as tensors, in the memory that the budget is about.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, batch_size: int, seed: int):
        super().__init__()
        self._x, self._y, self._batch_size = x, y, batch_size
        self._random = np.random.default_rng(seed)
        self._order = self._random.permutation(len(x))

    def __len__(self) -> int:
        return -(-len(self._x) // self._batch_size)

    def __getitem__(self, index: int):
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return self._x[chosen], self._y[chosen]

    def on_epoch_end(self) -> None:
        self._order = self._random.permutation(len(self._x))
