"""What the tests of the device's side share."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
