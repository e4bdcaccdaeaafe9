"""The table of boards."""

import pytest

from keras_dynhp.export import vela
from keras_dynhp.export.boards import Board, board, board_names, register_board

# As tests are collected: examples in docstrings, run before these or after, add their own.
COME_WITH_IT = board_names()


def test_every_board_has_its_figures_and_their_source():
    assert len(COME_WITH_IT) >= 10
    for name in COME_WITH_IT:
        found = board(name)
        assert found.name == name
        assert found.flash > found.ram / 4 > 0
        assert found.core and len(found.source) > 10
        assert found.npu is None or found.npu in vela.ACCELERATORS


def test_known_figures():
    assert board("arduino-nano-33-ble").flash == 1024 * 1024
    assert board("arduino-nano-33-ble").ram == 256 * 1024


def test_users_add_their_own():
    mine = Board("test-board", flash=1000, ram=500, core="Cortex-M0+", source="a test")
    register_board(mine)
    assert board("test-board") is mine
    with pytest.raises(ValueError, match="ram=0"):
        register_board(Board("bad", flash=1, ram=0, core="", source=""))


def test_an_unknown_board_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"arduino-nano-33-ble.*register_board"):
        board("arduino")
