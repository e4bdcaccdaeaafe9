"""Arm's Vela compiler on a .tflite file: what the network costs on an Ethos-U NPU."""

from __future__ import annotations

import csv
import glob
import importlib.util
import os
import re
import subprocess
import sys
import tempfile

from keras_dynhp.export.report import NpuReport

# The system configurations of Vela's own vela.ini that keep weights in flash and activations in
# SRAM, as a microcontroller does.
_SYSTEMS = {
    "u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "u65": ("Ethos_U65_Embedded", "Shared_Sram"),
    "u85": ("Ethos_U85_SYS_Flash_High", "Shared_Sram"),
}
_SIZES = {
    "u55": (32, 64, 128, 256),
    "u65": (256, 512),
    "u85": (128, 256, 512, 1024, 2048),
}
ACCELERATORS = tuple(f"ethos-{kind}-{macs}" for kind, sizes in _SIZES.items() for macs in sizes)


def installed() -> bool:
    """Whether ethos-u-vela can be imported."""
    return importlib.util.find_spec("ethosu") is not None


def measure(path: str, accelerator: str = "ethos-u55-128") -> NpuReport:
    """Vela's figures for a quantized .tflite file.

    Args:
        path: the file.
        accelerator: one of `ACCELERATORS`; the number is MACs a cycle.

    Raises:
        ImportError: where ethos-u-vela is missing.
        ValueError: for an unknown accelerator, or where Vela cannot compile the file.
    """
    if not installed():
        raise ImportError(
            'figures for an Ethos-U need ethos-u-vela: pip install "keras-dynhp[device]"'
        )
    if accelerator not in ACCELERATORS:
        raise ValueError(f"accelerator is one of {ACCELERATORS}; received {accelerator!r}.")
    system, memory = _SYSTEMS[accelerator.split("-")[1]]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ethosu.vela", os.path.abspath(path)]
        command += ["--accelerator-config", accelerator, "--output-dir", folder]
        command += ["--config", "Arm/vela.ini"]
        command += ["--system-config", system, "--memory-mode", memory]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        tables = glob.glob(os.path.join(folder, "*_summary_*.csv"))
        if done.returncode != 0 or not tables:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise ValueError(f"Vela cannot compile {path!r}: {said[-1] if said else 'no reason'}")
        with open(tables[0], newline="") as file:
            row = next(csv.DictReader(file))
    return _report(accelerator, row, done.stdout)


def _report(accelerator: str, row: dict[str, str], printed: str) -> NpuReport:
    counts = {
        place: int(number) for place, number in re.findall(r"(CPU|NPU) operators = (\d+)", printed)
    }
    refused = re.findall(r"Warning \(supported operators\) operator: (\w+)", printed)
    return NpuReport(
        accelerator=accelerator,
        sram_bytes=round(1024 * float(row["sram_memory_used"])),
        flash_bytes=round(
            1024
            * (float(row["off_chip_flash_memory_used"]) + float(row["on_chip_flash_memory_used"]))
        ),
        cycles=round(float(row["cycles_total"])),
        npu_operators=counts.get("NPU", 0),
        cpu_operators=counts.get("CPU", 0),
        cpu_fallbacks=tuple(dict.fromkeys(refused)),
    )
