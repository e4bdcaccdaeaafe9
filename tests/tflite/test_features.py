"""The feature constants that examples/keyword_spotting.py writes are enough to compute them."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"

MAIN = """
#include <cmath>
#include <cstdio>
#include <vector>
#include "features.h"
int main() {
  using namespace features;
  std::vector<float> sound(kSampleRate, 0.0f);
  int sample;
  for (int n = 0; n < kSampleRate && std::scanf("%d", &sample) == 1; ++n) {
    sound[n] = sample / 32768.0f;
  }
  for (int f = 0; f < kFrames; ++f) {
    float magnitude[kFft / 2 + 1];
    for (int k = 0; k <= kFft / 2; ++k) {
      double real = 0, imaginary = 0;
      for (int n = 0; n < kFrame; ++n) {
        const double angle = 2 * 3.14159265358979323846 * k * n / kFft;
        real += sound[f * kStep + n] * kWindow[n] * std::cos(angle);
        imaginary -= sound[f * kStep + n] * kWindow[n] * std::sin(angle);
      }
      magnitude[k] = std::sqrt(real * real + imaginary * imaginary);
    }
    for (int bin = 0; bin < kBins; ++bin) {
      float mel = 0;
      for (int k = 0; k <= kFft / 2; ++k) mel += kMel[bin][k] * magnitude[k];
      std::printf("%.7g\\n", (std::log(mel + kFloor) - kMean) / kDeviation);
    }
  }
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for this machine: g++")
def test_firmware_can_compute_the_features(tmp_path):
    sound = np.random.default_rng(0).integers(-9000, 9000, 6500)
    script = (
        "import numpy as np, datasets, keyword_spotting\n"
        "open('features.h', 'w').write(keyword_spotting.feature_constants(-7.5, 2.25))\n"
        "sound = np.loadtxt('sound.txt', dtype='int64')\n"
        "np.save('wanted.npy', (datasets.log_mel(sound)[..., 0] + 7.5) / 2.25)\n"
    )
    np.savetxt(tmp_path / "sound.txt", sound, fmt="%d")
    environment = {"PYTHONPATH": str(EXAMPLES), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    (tmp_path / "main.cc").write_text(MAIN)
    command = ["g++", "-std=c++14", "-O2", "-Wall", "-Wextra", "-Werror", "main.cc", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    given = (tmp_path / "sound.txt").read_text()
    done = subprocess.run(
        [tmp_path / "main"], input=given, capture_output=True, text=True, check=True
    )
    wanted = np.load(tmp_path / "wanted.npy")
    made = np.array(done.stdout.split(), "float32").reshape(wanted.shape)
    assert wanted.shape == (49, 20)
    np.testing.assert_allclose(made, wanted, atol=2e-3)
