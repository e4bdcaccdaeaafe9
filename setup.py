"""Packaging of keras_dynhp; tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    # tensorflow-datasets 4.9.10 imports importlib_resources without declaring it.
    "examples": [
        "tensorflow-datasets>=4.9.6",
        "importlib_resources",
        "matplotlib>=3.7",
        "scikit-learn>=1.3",
    ],
    # Keras Tuner 1.4 needs tensorboard at run time without declaring it.
    "tuner": ["keras-tuner>=1.4.7,<2", "tensorboard", "matplotlib>=3.7"],
    # Every tflite-micro release is a pre-release, so one has to be named.
    "device": [
        "ai-edge-litert>=2.0",
        "tflite-micro>=0.dev20260101",
        "pyyaml",
        "ethos-u-vela>=4",
    ],
    "qat": ["tensorflow-model-optimization>=0.8", "tf-keras>=2.18"],
    "report": ["plotly>=5.20"],
    # Flower's interface changes with each minor version; Python 3.10 has only older ones.
    "federated": ["flwr>=1.41,<1.42; python_version >= '3.11'"],
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=1,<2"],
}
EXTRAS["dev"] = sorted(
    {
        need
        for group in ("examples", "tuner", "device", "qat", "report", "federated", "docs")
        for need in EXTRAS[group]
    }
    | {
        "hypothesis>=6.100",
        "mypy>=1.10",
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.5",
        "ruff>=0.15,<0.16",
        "selenium>=4.20",
    }
)

setup(
    name="keras-dynhp",
    version="0.1.0",
    description="Dynamic Hard Pruning: Keras 3 networks that become small while they train",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["keras_dynhp", "keras_dynhp.*"]),
    # Those with which tests/keras_state and tests/callbacks pass: Keras 3.12 is the newest for
    # Python 3.10, the oldest for TensorFlow 2.21. A new minor version is admitted once they do.
    install_requires=["tensorflow>=2.21", "keras>=3.12,<3.16", "absl-py", "numpy>=1.26"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["keras-dynhp=keras_dynhp.cli:run"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
