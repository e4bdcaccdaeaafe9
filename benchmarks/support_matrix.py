"""The support matrix: every case of support_cases in every context, and the page that shows it.

    python -m benchmarks.support_matrix

writes docs/support_matrix.md. tests/graph/test_support.py has a test for every cell.
"""

from __future__ import annotations

import pathlib

import keras
from keras import layers as L

from benchmarks.support_cases import CASES, KEPT, NONE, PRUNED, TOKENS, Case

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "support_matrix.md"


def _stem(case: Case, name: str):
    """An input, and neurons of the case's shape made from it."""
    if case.shape == TOKENS:
        inputs = keras.Input((6,), dtype="int32")
        return inputs, inputs
    inputs = keras.Input((*case.shape[:-1], 3))
    return inputs, L.Dense(case.shape[-1], activation="tanh", name=name)(inputs)


def _head(x):
    x = L.Flatten()(x) if len(x.shape) > 2 else x
    return L.Dense(4, activation="tanh", name="reader")(x)


def _finish(inputs, x) -> keras.Model:
    return keras.Model(inputs, L.Dense(3, name="output")(x), name="case")


def plain(case: Case) -> keras.Model:
    """The block by itself, every other layer frozen."""
    inputs, x = _stem(case, "stem")
    model = _finish(inputs, _head(case.make()(x)))
    for layer in model.layers[::2]:
        layer.trainable = False
    return model


def nested(case: Case) -> keras.Model:
    """The block is a model inside the model."""
    inputs, x = _stem(case, "stem")
    inside = keras.Input(x.shape[1:], dtype=x.dtype)
    block = keras.Model(inside, case.make()(inside), name="block")
    return _finish(inputs, _head(block(x)))


def shared(case: Case) -> keras.Model:
    """The block is called on two tensors, the head reads both."""
    one, x = _stem(case, "stem")
    other, y = _stem(case, "stem_2")
    block = case.make()
    return _finish([one, other], L.Concatenate()([_head(block(x)), _head_2(block(y))]))


def _head_2(x):
    x = L.Flatten()(x) if len(x.shape) > 2 else x
    return L.Dense(2, name="reader_2")(x)


def mixed_precision(case: Case) -> keras.Model:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return plain(case)
    finally:
        keras.config.set_dtype_policy(policy)


CONTEXTS = {
    "half frozen, saved and loaded": plain,
    "inside a model": nested,
    "shared": shared,
    "mixed precision": mixed_precision,
}


def page() -> str:
    """The page, from what the cases promise."""
    lines = [
        "# What can be pruned through what",
        "",
        "Every row is a block of layers between a layer that makes neurons and one that reads",
        "them. *Through*: the neurons in front of the block can be pruned. *Own*: the block makes",
        "neurons of its own, which can be pruned. Every cell under a context is a test: half of",
        "all prunable neurons are masked at random, and the rebuilt model must equal the masked",
        "one to rounding. Barriers are exact, too: what they touch is kept, with a reason.",
        "*No kernel*: TensorFlow has none for it on a CPU. Channels first, several outputs, states",
        "and masks of steps given to a layer, and what must not be pruned have tests of",
        "their own: tests/graph/test_named_cases.py and tests/graph/test_adversarial.py.",
        "",
        "Written by `python -m benchmarks.support_matrix`, checked by tests/graph/test_support.py:",
        "every row by itself in `make test`, every cell in `make test-slow`; CI runs both.",
        "",
    ]
    words = {PRUNED: "pruned", KEPT: "kept whole", NONE: "-"}
    families = list(dict.fromkeys(case.family for case in CASES))
    for family in families:
        lines += [f"## {family}", "", "| | through | own | " + " | ".join(CONTEXTS) + " |"]
        lines.append("|---" * (3 + len(CONTEXTS)) + "|")
        for case in CASES:
            if case.family == family:
                cells = [
                    case.name,
                    words[case.through],
                    words[case.own],
                    *["no kernel" if c in case.without else "exact" for c in CONTEXTS],
                ]
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    cells = sum(len(CONTEXTS) - len(case.without) for case in CASES)
    print(f"{PAGE}: {len(CASES)} rows, {cells} cells")
