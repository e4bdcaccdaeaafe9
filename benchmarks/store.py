"""Results on disk: one CSV row per run; what is there isn't run again."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from absl import logging

from benchmarks.job import Job
from benchmarks.methods import METHODS
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent
KEY = ("row", "method", "seed", "epochs", "split", "batch_size", "cap_mb")
FIGURES = (
    *("accuracy", "params", "nonzero", "macs", "int8_bytes", "arena_bytes", "seconds"),
    *("first_memory", "last_memory", "mean_memory", "peak_memory", "budget", "last_batch_size"),
)
COLUMNS = (*KEY, *FIGURES, "widths", "error", "commit", "finished")


class Store:
    """The runs in a CSV file.

    Args:
        path: the file; made when the first run ends.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.records: list[dict] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                self.records = [_typed(record) for record in csv.DictReader(file)]

    def find(self, job: Job) -> dict | None:
        """The result of a job, if it was run."""
        for record in self.records:
            if all(record[name] == getattr(job, name) for name in KEY):
                return record
        return None

    def get(self, job: Job) -> dict:
        """The result of a job, which is run if it wasn't, after those it needs to know."""
        job = replace(job, folder=str(self.path.resolve().parent))
        found = self.find(job)
        if found is not None:
            return found
        alike = self._of_another_row(job)
        if alike is not None:
            self.add({**alike, "row": job.row})
            return alike
        reference = {}
        for method in METHODS[job.method].after:
            earlier = replace(job, method=method)
            reference[method] = self.get(earlier)
            if method != "dense" and not earlier.architecture(method).exists():
                raise FileNotFoundError(
                    f"{self.path} has the {method} run of {job.row}, but the network it ended with "
                    f"is not in {earlier.architecture(method)}: remove that line to run it again."
                )
        began = time.time()
        logging.info("%s %s seed %d ...", job.row, job.method, job.seed)
        record = {name: getattr(job, name) for name in KEY}
        record.update(run_in_child(replace(job, reference=reference)))
        record["commit"], record["finished"] = _commit(), time.strftime("%Y-%m-%d %H:%M")
        self.add(record)
        outcome = record.get("error") or f"{record['accuracy']:.2f}%"
        logging.info("... %s, %d s", outcome, time.time() - began)
        return record

    def _of_another_row(self, job: Job) -> dict | None:
        """The run of a row whose goals differ in nothing that the method knows of."""
        goals = METHODS[job.method].goals
        for row, workload in WORKLOADS.items():
            if workload.trains_like(job.workload, goals):
                found = self.find(replace(job, row=row))
                if found is not None:
                    return found
        return None

    def add(self, record: dict) -> None:
        """Keep a result; the file is replaced as a whole, so it is never half written."""
        self.records.append({name: record.get(name) for name in COLUMNS})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".csv")
        with open(handle, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.records)
        os.chmod(temporary, 0o644)
        os.replace(temporary, self.path)


def run_in_child(job: Job) -> dict:
    """Run a job in a process of its own.

    Raises:
        RuntimeError: if it fails for another reason than its memory cap, with the end of what it
            printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder, "job.json"), Path(folder, "result.json")
        given.write_text(json.dumps(asdict(job)))
        env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **METHODS[job.method].env}
        if job.cap_mb is not None:
            env["TF_CPU_BFC_MEM_LIMIT_IN_MB"] = str(job.cap_mb)
            env["TF_CPP_MIN_LOG_LEVEL"] = "1"  # where the allocator says what it could not give
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.job", str(given), str(result)],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # Not every operation of TensorFlow raises then: some crash.
        refused = re.search(r"ran out of memory trying to allocate \S+", child.stdout)
        if child.returncode and job.cap_mb is not None and refused:
            return {"error": refused.group()}
        if child.returncode or not result.exists():
            raise RuntimeError(
                f"{job.row} {job.method} seed {job.seed} failed:\n{child.stdout[-4000:]}"
            )
        return json.loads(result.read_text())


def _typed(record: dict[str, str]) -> dict:
    return {name: _number(record.get(name, "")) for name in COLUMNS}


def _number(text: str):
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _commit() -> str:
    """The commit that was measured, with a + if files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""
