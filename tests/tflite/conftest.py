"""Finds the networks that the tests of the export use."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "export"))
