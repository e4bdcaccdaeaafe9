"""The same networks and training in PyTorch, for its pruners; nothing of TensorFlow but the data.

Layers keep PyTorch's own defaults, as the Keras ones keep Keras's.
"""

from __future__ import annotations

import copy
import itertools
import math
import time

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.job import Job, learning_rate
from examples.datasets import Data


class Residual(nn.Module):
    """A residual block of ResNet-8."""

    def __init__(self, inputs: int, filters: int, strides: int):
        super().__init__()
        self.inner = nn.Sequential(
            *_convolution(inputs, filters, 3, strides), nn.ReLU(), *_convolution(filters, filters)
        )
        self.shortcut = (
            nn.Sequential(*_convolution(inputs, filters, 1, strides))
            if strides > 1
            else nn.Identity()
        )

    def forward(self, x):
        """The block's output."""
        return torch.relu(self.inner(x) + self.shortcut(x))


def _convolution(inputs: int, filters: int, size: int = 3, strides: int = 1):
    convolution = nn.Conv2d(inputs, filters, size, strides, padding=size // 2, bias=False)
    return convolution, nn.BatchNorm2d(filters)


def lenet_300_100(classes: int) -> nn.Module:
    """LeNet-300-100."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU()),
        nn.Linear(100, classes),
    )


def lenet_5(classes: int) -> nn.Module:
    """LeNet-5."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, classes)),
    )


def resnet_8(classes: int) -> nn.Module:
    """ResNet-8."""
    blocks = (Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    return nn.Sequential(*_convolution(1, 16), nn.ReLU(), *blocks, *head)


def ds_cnn(classes: int) -> nn.Module:
    """DS-CNN."""
    parts = [nn.Conv2d(1, 64, (10, 4), 2, padding=(5, 1), bias=False), nn.BatchNorm2d(64)]
    parts += [nn.ReLU(), nn.Dropout(0.2)]
    for _ in range(4):
        parts += [nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), nn.BatchNorm2d(64)]
        parts += [nn.ReLU(), nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    parts += [nn.Dropout(0.4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(*parts)


NETWORKS = {network.__name__: network for network in (lenet_300_100, lenet_5, resnet_8, ds_cnn)}


class TorchTrainer:
    """Trains a PyTorch network as the Keras ones are, and keeps the record of time and memory."""

    def __init__(self, job: Job, data: Data):
        self.job = job
        self.x, self.y = self._tensors(data.x_train, data.y_train)
        self.x_test, self.y_test = self._tensors(data.x_test, data.y_test)
        torch.manual_seed(job.seed)
        self.model = NETWORKS[job.workload.network](data.classes).to(
            memory_format=torch.channels_last
        )
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.seconds = 0.0
        self._random = np.random.default_rng(job.seed)
        self._stream = self._batches()
        self._steps_done = 0
        self._peaks: list[tuple[int, int]] = []  # (bytes, for so many steps)

    @staticmethod
    def _tensors(x: np.ndarray, y: np.ndarray):
        # Channels stay last in memory, where PyTorch's convolutions are up to twice as fast.
        images = torch.from_numpy(np.ascontiguousarray(x)).movedim(-1, 1)
        return images, torch.from_numpy(y.astype("int64"))

    @property
    def example(self) -> torch.Tensor:
        """One sample."""
        return self.x[:1]

    @property
    def params(self) -> int:
        """Parameters and BatchNorm statistics, as Keras counts."""
        tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        return sum(t.numel() for n, t in tensors.items() if "num_batches_tracked" not in n)

    def batches(self, count: int):
        """The next batches; every epoch has a new order."""
        return itertools.islice(self._stream, count)

    def _batches(self):
        while True:
            order = self._random.permutation(len(self.x))
            for start in range(0, len(order), self.job.batch_size):
                rows = torch.from_numpy(order[start : start + self.job.batch_size])
                yield self.x[rows], self.y[rows]

    def fit(self, epochs: float) -> None:
        """Train for so many epochs of the job's, which need not be whole."""
        peak = step_peak(self.model, *next(self._batches()))
        per_epoch = math.ceil(len(self.x) / self.job.batch_size)
        end = round(self._steps_done + epochs * per_epoch)
        self._peaks.append((peak, end - self._steps_done))
        self.model.train()
        began = time.perf_counter()
        for x, y in self.batches(end - self._steps_done):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self._steps_done // per_epoch, self.job.epochs)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()
            self._steps_done += 1
        self.seconds += time.perf_counter() - began

    def result(self, macs: int) -> dict:
        """The record of the run."""
        peaks, steps = zip(*self._peaks)
        self.model.eval()
        with torch.no_grad():
            guesses = torch.cat([self.model(x).argmax(1) for x in self.x_test.split(1000)])
        return {
            "params": self.params,
            "nonzero": self.params,
            "macs": int(macs),
            "accuracy": 100 * float((guesses == self.y_test).float().mean()),
            "seconds": self.seconds,
            "first_memory": peaks[0],
            "last_memory": peaks[-1],
            "mean_memory": float(np.average(peaks, weights=steps)),
            "peak_memory": max(peaks),
            "last_batch_size": self.job.batch_size,
        }


def step_peak(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """The most bytes PyTorch's CPU allocator has out while a copy of the network takes two steps.

    From its profiler's record of allocations; weights, gradients, optimizer and batch included.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        twin = copy.deepcopy(model).train()
        optimizer = torch.optim.Adam(twin.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(x.clone()), y).backward()
            optimizer.step()
    changes = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    in_use = np.cumsum([e.nbytes() for e in sorted(changes, key=lambda e: e.start_ns())])
    return int(in_use.max())
