"""Roster: which nodes take part, and how much of the network each can hold."""

from __future__ import annotations

import logging
import random
import time

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from keras_dynhp.errors import BudgetError
from keras_dynhp.federated.layout import Layout
from keras_dynhp.federated.messages import Counts, Plan, Refused

__all__ = ["Roster"]

logger = logging.getLogger("flwr")

# Seconds between two looks at who is connected.
_PAUSE = 1.0


class Roster:
    """Asks nodes, before they first train, whether they can; so late ones can join in any round.

    Args:
        layout: of the full network.

    Attributes:
        widths: for each node that can, how many neurons of each group its memory holds.
        refused: for each node that can't, why; it is not asked again in this run.
        min_clients: how many must be connected before the first nodes are chosen; later, who is
            left goes on.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.widths: dict[int, list[int]] = {}
        self.refused: dict[int, Refused] = {}
        self.min_clients = 1

    def choose(self, grid: Grid, hello: Plan, count: int | None, timeout: float) -> list[int]:
        """Nodes for a round: `count` of those connected (None: all), less those that can't.

        Raises:
            BudgetError, ValueError: if no node has ever been able to take part.
            TimeoutError: if too few are connected for as long as `timeout`.
        """
        connected = [node for node in self._wait(grid, timeout) if node not in self.refused]
        chosen = sorted(connected)
        if count is not None and count < len(chosen):
            chosen = sorted(random.sample(chosen, count))
        self._ask(grid, [node for node in chosen if node not in self.widths], hello, timeout)
        accepted = [node for node in chosen if node in self.widths]
        if not self.widths:
            self._give_up()
        return accepted

    def _wait(self, grid: Grid, timeout: float) -> list[int]:
        began = time.monotonic()
        least = 1 if self.widths else self.min_clients
        while len(nodes := list(grid.get_node_ids())) < least:
            if time.monotonic() - began > timeout:
                raise TimeoutError(
                    f"{len(nodes)} clients are connected after {timeout:.0f} s; "
                    f"{least} are needed. Start more SuperNodes, or ask for fewer."
                )
            logger.info("%d of %d clients are connected; waiting.", len(nodes), least)
            time.sleep(_PAUSE)
        return nodes

    def _ask(self, grid: Grid, nodes: list[int], hello: Plan, timeout: float) -> None:
        if not nodes:
            return
        content = RecordDict({"plan": hello.to_record()})
        questions = [Message(content, node, MessageType.QUERY, ttl=timeout) for node in nodes]
        for reply in grid.send_and_receive(questions, timeout=timeout):
            node = reply.metadata.src_node_id
            if reply.has_error():  # it may do better next time
                logger.warning("Node %d can't take part now: %s", node, reply.error.reason)
                continue
            try:
                Refused.check(reply.content)
                hello.check_reply(reply.content)
                counts = Counts.from_content(reply.content, self.layout)
            except Refused as error:
                self.refused[node] = error
                logger.warning("Refused node %d for this run: %s.", node, error)
                continue
            self.widths[node] = counts.widths
            logger.info(
                "Node %d: %d examples, room for widths %s", node, counts.examples, counts.widths
            )

    def _give_up(self) -> None:
        reasons = "\n".join(f"  node {node}: {error}" for node, error in self.refused.items())
        if self.refused and all(error.needed for error in self.refused.values()):
            least = min(self.refused.values(), key=lambda error: error.needed - error.given)
            raise BudgetError(
                f"No client's budget can hold any part of the network:\n{reasons}",
                least.needed,
                least.given,
            )
        raise ValueError(f"No client can take part:\n{reasons or '  none has answered'}")
