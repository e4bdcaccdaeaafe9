"""DynHPStrategy: dynamic hard pruning over many machines, as a Flower strategy."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable

import keras
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from keras_dynhp import criteria, schedules
from keras_dynhp.costs.target import Target
from keras_dynhp.criteria import Criterion
from keras_dynhp.federated.averaging import Average
from keras_dynhp.federated.messages import Plan, Refused, Update, payload, weights_record
from keras_dynhp.federated.network import GlobalNetwork
from keras_dynhp.federated.roster import Roster
from keras_dynhp.pruning.proof import DeviceProof
from keras_dynhp.rebuild.transfer import take
from keras_dynhp.saving.files import read_tree, remove_leftovers, write_tree
from keras_dynhp.sizes import format_size

__all__ = ["DynHPStrategy"]

# Flower's own logger, so that `flwr run --stream` shows what happens.
logger = logging.getLogger("flwr")


class DynHPStrategy(Strategy):
    """Federated averaging of a network that becomes smaller from round to round.

    In each round the server sends its network to clients; each trains it on its own data and
    answers with weights, counts and a score for each neuron. The server averages weights and
    scores, weighted by example counts, and decides which neurons go, by the same criteria,
    schedules and targets as `DynHP` does on one machine; the next round begins with the smaller
    network. A client whose memory budget is too small gets the neurons worth most of every group,
    as many as fit, and counts in the average only where it has neurons.

    Everything that a client sends is checked, and refused with a reason in the log if it doesn't
    fit: another version, another network or plan, wrong shapes, values that aren't finite.

    Args:
        model: the full network. Its object becomes the smaller ones.
        target: what the final network must satisfy; 4 times fewer parameters if None. Bytes on the
            device are estimated on the way and measured on the real file and arena on arrival.
        rounds: of training.
        criterion: `"taylor"`, `"magnitude"`, `"random"`, or a `Criterion`.
        schedule: how far pruning has come as the rounds go: a name, a `Schedule`, or any callable
            from progress in [0, 1] to fraction in [0, 1].
        clients: how many clients are asked in a round; None: all that are connected.
        state: a file that is written after every round. A server that finds it goes on from there:
            same widths, weights, scores and place in the schedule.

    Attributes:
        model: the network as it is.
        history: one dictionary for each round: `round`, `clients`, `refused`, `neurons`, `params`,
            `widths`, `bytes_down`, `bytes_up`, `bytes_rest` (of these, all that is not weights),
            `peak_bytes` (of training, for each client's node), `seconds`, and what `evaluate` told.
        device: after the last round, what the int8 network needs on the device, for a target in
            bytes; otherwise None.

    Raises:
        TypeError, ValueError: for arguments that make no sense, or a target that can't be met.

    Example, the ServerApp:

    >>> from flwr.serverapp import ServerApp
    >>> app = ServerApp()
    >>> @app.main()
    ... def main(grid, context):
    ...     model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    ...     strategy = DynHPStrategy(model, rounds=20, state="state.npz")
    ...     strategy.start(grid)
    ...     model.save("small.keras")
    """

    def __init__(
        self,
        model: keras.Model,
        target: Target | None = None,
        rounds: int = 20,
        criterion: str | Criterion = "taylor",
        schedule: str | Callable[[float], float] = "cubic",
        clients: int | None = None,
        state: str | os.PathLike | None = None,
    ):
        if target is not None and not isinstance(target, Target):
            raise TypeError(f"`target` must be a keras_dynhp.Target. Received: {target!r}")
        for name, value in (("rounds", rounds), ("clients", 1 if clients is None else clients)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer. Received: {value!r}")
        self.model = model
        self.target = target or Target(compression=4)
        self.rounds = rounds
        self.criterion = criteria.get(criterion)
        self.schedule = schedules.get(schedule)
        self.clients = clients
        self.state = state
        self.history: list[dict] = []
        self._network = GlobalNetwork(model, self.target, self.criterion)
        self._roster = Roster(self._network.layout)
        self._proof = DeviceProof(self.target)
        self.device: dict | None = None
        self._timeout = 3600.0
        self._sent: dict[int, Plan] = {}
        self._bytes = {"down": 0, "up": 0, "rest": 0}
        if state is not None and os.path.exists(state):
            self._resume()

    @property
    def on_target(self) -> bool:
        """Whether the network is small enough now."""
        return self._network.on_target

    def start(
        self,
        grid: Grid,
        timeout: float = 3600.0,
        evaluate: Callable[[keras.Model], dict[str, float]] | None = None,
        min_clients: int = 1,
    ) -> Result:
        """Run the rounds that are left.

        Args:
            grid: as Flower hands it over.
            timeout: seconds that clients have for a round; who answers later is not waited for.
            evaluate: called with the network after each round; what it returns stands in
                `history`.
            min_clients: wait until so many are connected before the first round begins.

        Returns:
            Flower's record of the run, with the final weights.

        Raises:
            BudgetError: before the first round, if no client's budget can hold any part of the
                network.
            ValueError: before the first round, if all clients are refused for other reasons.
            TimeoutError: if too few clients are connected for as long as `timeout`.
            TargetError: after the last round, if the real int8 file or arena is larger than the
                target allows, and by how much; `model` and `state` keep what there is.
            ImportError, ValueError: before the first round, if a target in bytes can't be proven.
        """
        self._timeout = timeout
        self._roster.min_clients = max(min_clients, self.clients or 1)
        self._proof.begin(self.model)
        result = Result()
        self.summary()
        for number in range(len(self.history) + 1, self.rounds + 1):
            logger.info("[ROUND %d/%d]", number, self.rounds)
            began = time.monotonic()
            orders = self.configure_train(number, ArrayRecord(), ConfigRecord(), grid)
            replies = grid.send_and_receive(orders, timeout=timeout)
            result.arrays, result.train_metrics_clientapp[number] = self.aggregate_train(
                number, replies
            )
            entry = self.history[-1]
            entry["seconds"] = time.monotonic() - began
            if evaluate is not None:
                entry |= {name: float(value) for name, value in evaluate(self.model).items()}
            self._save()
            self._tell(entry)
        if not result.arrays:
            result.arrays = weights_record(self._network.live.weights())
        # Of bytes on the device there are estimates; on those the proof has the last word.
        missed = self._network.goals.missed(self._network.groups)
        for name in missed.keys() - self._proof.limits.keys():
            now, most = missed[name]
            logger.warning("Target missed: %s is %.0f where %.0f are allowed", name, now, most)
        # The examples are with the clients: sizes don't depend on what calibrates them.
        self.device = self._proof.end(self.model, samples_of=lambda model: None)
        return result

    # ---- Flower's calls ----------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The orders of a round, one for each client; the network is the strategy's own."""
        network, live = self._network, self._network.live
        self._bytes = {"down": 0, "up": 0, "rest": 0}
        hello = Plan(live.layout, live.part, live.part, live.part & False, 0)
        accepted = self._roster.choose(grid, hello, self.clients, self._timeout)
        network.put_on_trial(self._fraction(server_round))
        weights = live.weights()
        self._sent, orders = {}, []
        contents: dict[str, RecordDict] = {}
        for node in accepted:
            part = network.part_for(self._roster.widths[node])
            plan = Plan(live.layout, live.part, part, network.on_trial & part, server_round)
            self._sent[node] = plan
            if plan.id not in contents:
                places = live.layout.places(part, live.part)
                contents[plan.id] = RecordDict(
                    {
                        "plan": plan.to_record(),
                        "weights": weights_record([take(v, p) for v, p in zip(weights, places)]),
                    }
                )
            content = contents[plan.id]
            self._count("down", content)
            # A node that comes back later must not work on a round that is over.
            orders.append(Message(content, node, MessageType.TRAIN, ttl=self._timeout))
        return orders

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average what is sound, refuse the rest, prune."""
        live = self._network.live
        average = Average(live.layout, live.part, live.weights())
        peaks, sizes, refused = {}, {}, {}
        waiting = dict(self._sent)
        for reply in sorted(replies, key=lambda reply: reply.metadata.src_node_id):
            node = reply.metadata.src_node_id
            plan = waiting.pop(node, None)
            if plan is None:
                # The SuperLink itself tells of a node that it can't reach.
                why = reply.error.reason if reply.has_error() else "it was not asked"
                logger.warning("Refused a message of node %d: %s", node, why)
                continue
            try:
                update = self._read(reply, plan)
            except Refused as error:
                refused[node] = str(error)
                logger.warning("Refused the update of node %d: %s.", node, error)
                continue
            average.add(plan.part, update.weights, update.scores, update.counts.examples)
            self._roster.widths[node] = update.counts.widths
            peaks[str(node)] = update.counts.peak_bytes
            sizes[str(node)] = [sum(live.layout.widths(plan.part)), update.counts.batch_size]
        for node in waiting:
            refused[node] = "no answer in time"
            logger.warning("Node %d did not answer in time.", node)
        removed = self._learn(average, server_round) if average.examples else 0
        self.history.append(
            {
                "round": server_round,
                "clients": len(peaks),
                "refused": {str(node): reason for node, reason in refused.items()},
                "removed": removed,
                "neurons": int(live.part.sum()),
                "params": self.model.count_params(),
                "widths": live.layout.widths(live.part),
                "bytes_down": self._bytes["down"],
                "bytes_up": self._bytes["up"],
                "bytes_rest": self._bytes["rest"],
                "peak_bytes": peaks,
                "neurons_and_batch": sizes,
            }
        )
        counts = {"clients": len(peaks), "params": self.model.count_params()}
        return weights_record(live.weights()), MetricRecord(counts)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Clients are not asked to evaluate: nothing but weights, counts and scores leaves them."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Nothing, as nothing was asked."""
        return None

    def summary(self) -> None:
        """Log what this strategy is about to do."""
        live = self._network.live
        logger.info(
            "DynHP: %d of %d rounds done, %d parameters in groups of %s neurons, on the way to %s",
            len(self.history),
            self.rounds,
            self.model.count_params(),
            live.layout.widths(live.part),
            self.target,
        )

    # ---- ours --------------------------------------------------------------------------------

    def _fraction(self, rounds_done: int) -> float:
        progress = min(1.0, rounds_done / self.rounds)
        return schedules.schedule.fraction(self.schedule, progress, rounds_done)

    def _read(self, reply: Message, plan: Plan) -> Update:
        if reply.has_error():
            raise Refused(f"it failed: {reply.error.reason}")
        self._count("up", reply.content)
        return Update.from_content(reply.content, plan, self.criterion.uses_gradients)

    def _learn(self, average: Average, number: int) -> int:
        network = self._network
        network.learn(average.weights(), average.scores(network.gates))
        if self.criterion.uses_gradients and not network.gates.any():
            logger.warning("Round %d pruned nothing: all scores are zero.", number)
            return 0
        return network.prune(self._fraction(number)) + self._proof.correct(network)

    def _count(self, way: str, content: RecordDict) -> None:
        sizes = payload(content)
        self._bytes[way] += sum(sizes.values())
        self._bytes["rest"] += sizes["rest"]

    def _tell(self, entry: dict) -> None:
        figures = {k: v for k, v in entry.items() if isinstance(v, float) and k != "seconds"}
        logger.info(
            "Round %d: %d clients, %d refused, widths %s, %d parameters, %s down, %s up, %.1f s%s",
            entry["round"],
            entry["clients"],
            len(entry["refused"]),
            entry["widths"],
            entry["params"],
            format_size(entry["bytes_down"]),
            format_size(entry["bytes_up"]),
            entry["seconds"],
            "".join(f", {name} {value:.4f}" for name, value in figures.items()),
        )

    def _save(self) -> None:
        if self.state is not None:
            state = {"history": self.history, "network": self._network.get_state()}
            write_tree(self.state, state | {"rounds": self.rounds})

    def _resume(self) -> None:
        remove_leftovers(self.state)
        state = read_tree(self.state)
        if state["rounds"] != self.rounds:
            raise ValueError(
                f"{os.fspath(self.state)!r} is of a run of {state['rounds']} rounds. Received: "
                f"rounds={self.rounds}. Use the same number, or delete the file to begin afresh."
            )
        self._network.set_state(state["network"])
        self.history = state["history"]
