"""Well-known boards: flash, RAM, core and NPU, each with the source of its figures."""

from __future__ import annotations

from dataclasses import dataclass

KB = 1024
MB = 1024 * KB


@dataclass(frozen=True)
class Board:
    """A board that TensorFlow Lite Micro runs on.

    Attributes:
        name: as `Target.for_device` takes it.
        flash: bytes of flash, bootloader and application among it.
        ram: bytes of RAM, stack and application among it.
        core: the processor core, with its clock.
        source: where the figures are from.
        npu: the Ethos-U of the board as Vela calls it, or None.
    """

    name: str
    flash: int
    ram: int
    core: str
    source: str
    npu: str | None = None


_BOARDS: dict[str, Board] = {}


def register_board(board: Board) -> Board:
    """Add a board, or replace the one of the same name.

    Raises:
        ValueError: where flash or RAM are not positive.

    >>> from keras_dynhp.export.boards import Board, board, register_board
    >>> mine = Board("my-board", flash=256 * 1024, ram=32 * 1024, core="Cortex-M4F", source="mine")
    >>> register_board(mine) is board("my-board")
    True
    """
    if board.flash <= 0 or board.ram <= 0:
        raise ValueError(
            f"the board {board.name!r} needs bytes of flash and RAM above 0; received "
            f"flash={board.flash!r}, ram={board.ram!r}."
        )
    _BOARDS[board.name] = board
    return board


def board(name: str) -> Board:
    """The board of that name.

    Raises:
        ValueError: for an unknown name, with the known ones.

    >>> from keras_dynhp.export.boards import board
    >>> board("arduino-nano-33-ble").core
    'Cortex-M4F, 64 MHz'
    """
    if name not in _BOARDS:
        raise ValueError(
            f"no board is named {name!r}. Known: {', '.join(sorted(_BOARDS))}. Add your own with "
            "keras_dynhp.export.boards.register_board(Board(...))."
        )
    return _BOARDS[name]


def board_names() -> list[str]:
    """The names of all boards."""
    return sorted(_BOARDS)


_NRF52840 = "Nordic nRF52840 product specification: 1 MB flash, 256 KB RAM"
_PLATFORMIO = "PlatformIO board definition"

for _board in (
    Board("arduino-nano-33-ble", MB, 256 * KB, "Cortex-M4F, 64 MHz", _NRF52840),
    Board("arduino-nano-33-ble-sense", MB, 256 * KB, "Cortex-M4F, 64 MHz", _NRF52840),
    Board(
        "bbc-microbit-v2",
        512 * KB,
        128 * KB,
        "Cortex-M4F, 64 MHz",
        "Nordic nRF52833 product specification: 512 KB flash, 128 KB RAM",
    ),
    # What the Arduino core gives the M7: the chip has 2 MB and 1 MB for two cores.
    Board(
        "arduino-portenta-h7",
        786_432,
        523_624,
        "Cortex-M7, 480 MHz",
        f"{_PLATFORMIO} portenta_h7_m7: maximum_size and maximum_ram_size",
    ),
    Board(
        "stm32f746g-disco",
        MB,
        320 * KB,
        "Cortex-M7, 216 MHz",
        f"{_PLATFORMIO} disco_f746ng: maximum_size and maximum_ram_size",
    ),
    Board(
        "nucleo-l476rg",
        MB,
        128 * KB,
        "Cortex-M4F, 80 MHz",
        f"{_PLATFORMIO} nucleo_l476rg: maximum_size and maximum_ram_size",
    ),
    Board(
        "bluepill-f103c8",
        64 * KB,
        20 * KB,
        "Cortex-M3, 72 MHz",
        f"{_PLATFORMIO} bluepill_f103c8: maximum_size and maximum_ram_size",
    ),
    Board(
        "raspberry-pi-pico",
        2 * MB,
        264 * KB,
        "Cortex-M0+, 133 MHz",
        f"{_PLATFORMIO} pico: maximum_size and maximum_ram_size",
    ),
    # The RAM that the Teensy core places variables in; the chip has 1 MB in all.
    Board(
        "teensy-4.1",
        8_126_464,
        512 * KB,
        "Cortex-M7, 600 MHz",
        f"{_PLATFORMIO} teensy41: maximum_size and maximum_ram_size",
    ),
    Board(
        "esp32-s3-devkitc-1",
        8 * MB,
        512 * KB,
        "Xtensa LX7, 240 MHz",
        f"{_PLATFORMIO} esp32-s3-devkitc-1: maximum_size and maximum_ram_size",
    ),
    Board(
        "alif-ensemble-e7",
        5632 * KB,
        13_824 * KB,
        "Cortex-M55, 400 MHz",
        "Alif Ensemble E7 datasheet: 5.5 MB MRAM, up to 13.5 MB SRAM, Ethos-U55 of 256 MACs",
        npu="ethos-u55-256",
    ),
):
    register_board(_board)
