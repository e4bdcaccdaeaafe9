"""What all tests share, those in docstrings too."""

import functools
import gc
import multiprocessing
import os
import random
import re
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Tests say themselves where TensorFlow's allocator is to count and when it is full.
for _name in ("TF_CPU_ALLOCATOR_USE_BFC", "TF_CPU_BFC_MEM_LIMIT_IN_MB"):
    os.environ.pop(_name, None)

# Property tests build networks: how long one takes says nothing on a busy machine.
settings.register_profile("networks", deadline=None)
settings.load_profile("networks")

# Each layer is some hundred objects; looking for garbage so often would take half of the time.
gc.set_threshold(20_000, 20, 20)

# TensorFlow asks for each value whether it is a tensor, which is a protocol: before Python 3.12
# that goes through the protocol's attributes anew each time, a tenth of all that is computed here.
if sys.version_info < (3, 12):
    typing._get_protocol_attrs = functools.lru_cache(None)(typing._get_protocol_attrs)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a sweep the suite runs the cases that its marker's pattern finds; the others are slow."""
    for item in items:
        sweep = item.get_closest_marker("sweep")
        if sweep is not None and not re.search(sweep.args[0], item.callspec.id):
            item.add_marker("slow")


_SEED = 0


@pytest.fixture(autouse=True)
def _same_numbers():
    """Networks begin alike and data are shuffled alike.

    `keras.utils.set_random_seed` would do, but empties TensorFlow's cache of kernels, a twelfth of
    a second for each test. So where its seed is set already, only what draws from it begins again.
    """
    import keras
    from tensorflow.python.eager import context

    from keras_dynhp.keras_state.random import eager_generator

    if context.global_seed() == _SEED:
        eager_generator().seed(_SEED)
        random.seed(_SEED)  # from which Keras draws the seeds of initializers
        np.random.seed(_SEED)
    else:
        keras.utils.set_random_seed(_SEED)


@pytest.fixture(autouse=True, scope="module")
def _no_old_objects_in_garbage_collection():
    """What TensorFlow, Keras and earlier tests are made of need not be looked through again."""
    gc.collect()
    gc.freeze()


# What a program of its own is told first: whose words those are, and where its own go.
_BEGIN = """
import os, sys
for place, number in ((OUT, 1), (ERR, 2)):
    os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
os.environ.clear()
os.environ.update(ENVIRONMENT)
sys.argv, sys.path = ARGV, [FOLDER, *sys.path]
exec(compile(CODE, ARGV[0], "exec"), {"__name__": "__main__"})
"""


@pytest.fixture(scope="session")
def start_alone():
    """Starts a program in a process of its own: `start_alone(program, *arguments, output, errors)`.

    The program is text or the path of a file; `output` and `errors` are files. The process is a
    fork of one that has imported Keras and done nothing with it, since importing it takes longer
    than most programs run.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["keras", "keras_dynhp"])

    def start(
        program: str | Path, *arguments: object, output: Path, errors: Path, **environment: str
    ) -> multiprocessing.process.BaseProcess:
        from_file = isinstance(program, Path)
        told = {
            "OUT": str(output),
            "ERR": str(errors),
            "ENVIRONMENT": {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment},
            "ARGV": [str(program) if from_file else "-c", *map(str, arguments)],
            "FOLDER": str(program.parent) if from_file else "",
            "CODE": program.read_text() if from_file else program,
        }
        process = context.Process(target=exec, args=(_BEGIN, told))
        process.start()
        return process

    return start


@pytest.fixture(scope="session")
def run_alone(start_alone, tmp_path_factory):
    """Runs a program as `start_alone` does, to its good end; what it printed is returned."""

    def run(program: str | Path, *arguments: object, timeout: float = 280, **environment: str):
        folder = tmp_path_factory.mktemp("alone")
        output, errors = folder / "output", folder / "errors"
        process = start_alone(program, *arguments, output=output, errors=errors, **environment)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode == 0, f"exit {process.exitcode}: {errors.read_text()[-3000:]}"
        return output.read_text()

    return run
