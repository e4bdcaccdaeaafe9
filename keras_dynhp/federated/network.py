"""GlobalNetwork: what the server knows, and where it decides which neurons go."""

from __future__ import annotations

import keras
import numpy as np

from keras_dynhp.costs.target import Target
from keras_dynhp.criteria import Criterion
from keras_dynhp.federated.live import LiveNetwork
from keras_dynhp.graph.groups import ChannelGroups
from keras_dynhp.pruning.fading import Fading, Originals, restore
from keras_dynhp.pruning.goals import Goals
from keras_dynhp.pruning.selection import select
from keras_dynhp.rebuild.checks import check_layers

__all__ = ["GlobalNetwork"]


class GlobalNetwork:
    """The server's network, pruned by scores that clients measured.

    As on one machine (`keras_dynhp.pruning.engine`): what will have to go next is put on trial for
    a round, in which it fades out of the clients' networks; of that, what is still worth least
    goes for good, and the rest comes back as it was.

    Args:
        model: the full network; its object becomes the smaller ones.
        target: what the final network must satisfy.
        criterion: what a neuron is worth.

    Raises:
        ValueError: if the target can't be met, or a layer can't be made anew.
    """

    def __init__(self, model: keras.Model, target: Target, criterion: Criterion):
        self.live = LiveNetwork(model)
        self.layout = self.live.layout
        self.criterion = criterion
        self.goals = Goals(self.live.groups, target)
        self.goals.check(model, self.live.groups)
        check_layers(self.live.groups.trace)
        self.gates = np.zeros(self.layout.neurons)
        self.worth: np.ndarray | None = None  # scores by the criterion; None before there are any
        self.on_trial = np.zeros(self.layout.neurons, bool)
        self._originals: Originals = []

    @property
    def model(self) -> keras.Model:
        """The network as it is."""
        return self.live.model

    @property
    def groups(self) -> ChannelGroups:
        """Its channel groups."""
        return self.live.groups

    @property
    def on_target(self) -> bool:
        """Whether the network is small enough."""
        return not self.goals.missed(self.groups)

    def part_for(self, widths: list[int]) -> np.ndarray:
        """The neurons worth most of every group, as many as `widths` allows."""
        return self.layout.narrowed(self.live.part, widths, self.worth)

    def put_on_trial(self, fraction: float) -> None:
        """Choose what would have to go to be at a fraction of the way to the target."""
        self.on_trial[:] = False
        self._originals = []
        if fraction <= 0 or self.worth is None:
            return
        groups = self.live.groups
        stays = select(groups, self.live.by_group(self.worth), self.goals.at(groups, fraction))
        goes = {name: ~mask for name, mask in stays.items()}
        self.on_trial = self.live.flat(goes, 0.0).astype(bool)
        # The optimizer only tells which variable is which.
        trial = Fading(groups, stays, keras.optimizers.SGD(), 1)
        self._originals = trial.originals()

    def learn(self, weights: list[np.ndarray], gates: np.ndarray) -> None:
        """Take over what the clients learned in a round."""
        self.live.set_weights(weights)
        self.gates = gates

    def prune(self, fraction: float) -> int:
        """Remove what is due at a fraction of the way; returns how many neurons went.

        Of the neurons due, those that were on trial go; on arrival (fraction 1) all of them do.
        """
        groups = self.live.groups
        scores = self.criterion.scores(groups, self.live.by_group(self.gates))
        self.worth = self.live.flat(scores, 0.0)
        gone = np.zeros(self.layout.neurons, bool)
        if fraction > 0:
            stays = select(groups, scores, self.goals.at(groups, fraction))
            gone = self.live.flat({n: ~mask for n, mask in stays.items()}, 0.0).astype(bool)
            if fraction < 1:
                gone &= self.on_trial
        # What goes takes its faded weights along; what came through its trial gets its own back.
        restore(self._originals)
        self._originals = []
        self.live.shrink(self.live.part & ~gone)
        return int(gone.sum())

    def get_state(self) -> dict:
        """Everything that training goes on with, as plain values and arrays."""
        return {
            "fingerprint": self.layout.fingerprint,
            "part": self.live.part,
            "weights": self.live.weights(),
            "gates": self.gates,
            "worth": self.worth,
            "criterion": self.criterion.get_state(),
        }

    def set_state(self, state: dict) -> None:
        """From the full network: become what `get_state` described.

        Raises:
            ValueError: the state is that of another network; nothing is changed then.
        """
        if state["fingerprint"] != self.layout.fingerprint:
            raise ValueError(
                f"This state is that of another network than {self.live.model.name!r}, which has "
                f"groups of {self.layout.sizes} neurons. Delete the file to begin afresh."
            )
        self.live.shrink(state["part"].astype(bool))
        self.live.set_weights(state["weights"])
        self.gates, self.worth = state["gates"], state["worth"]
        self.criterion.set_state(state["criterion"])
