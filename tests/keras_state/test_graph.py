"""The private facts about Keras's graphs that keras_dynhp relies on."""

from __future__ import annotations

import keras
import pytest
from keras import layers as L
from keras import ops

from keras_dynhp.keras_state import graph as ks


def test_one_object_per_key_while_a_file_is_loaded(tmp_path):
    made = []

    @keras.saving.register_keras_serializable("tests")
    class Probe(L.Identity):
        @classmethod
        def from_config(cls, config):
            made.append(ks.once_per_file("key", object))
            return cls(**config)

    inputs = keras.Input((2,))
    keras.Model(inputs, Probe()(Probe()(inputs))).save(tmp_path / "probe.keras")
    for _ in range(2):
        keras.models.load_model(tmp_path / "probe.keras")
    assert made[0] is made[1] and made[2] is made[3]
    assert made[0] is not made[2]
    assert ks.once_per_file("key", object) is not ks.once_per_file("key", object)


def test_a_bare_operation_is_copied_without_its_calls():
    operation = keras.ops.clip(keras.Input((2,)), 0, 1)._keras_history.operation
    new = ks.copied(operation)
    assert type(new) is type(operation) and (new.x_min, new.x_max) == (0, 1)
    other = keras.Input((3,))
    assert new(other).shape == (None, 3)
    assert len(operation._inbound_nodes) == 1 and len(new._inbound_nodes) == 1


@pytest.fixture
def model():
    one, other = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    x = L.Dense(4, name="dense")(ops.add(one, other))
    return keras.Model({"a": one, "b": other}, [L.Dense(2, name="end")(x * 2.0)])


def test_nodes_come_in_the_order_in_which_they_run(model):
    seen = set()
    for node in ks.nodes_in_order(model):
        assert all(id(tensor) in seen for tensor in ks.input_tensors(node))
        seen |= {id(tensor) for tensor in ks.output_tensors(node)}
    kinds = [type(node.operation).__name__ for node in ks.nodes_in_order(model)]
    assert sorted(kinds) == ["Add", "Dense", "Dense", "InputLayer", "InputLayer", "Multiply"]


def test_inputs_are_known(model):
    inputs = [node for node in ks.nodes_in_order(model) if ks.is_input(node)]
    assert {node.operation.name for node in inputs} == {"a", "b"}
    assert all(not ks.input_tensors(node) for node in inputs)


def test_arguments_and_their_replacement(model):
    (add,) = [n for n in ks.nodes_in_order(model) if ks.bare_operation_name(n.operation) == "Add"]
    one, other = ks.input_tensors(add)
    assert ks.call_arguments(add)[0] == (one, other)
    assert ks.fill_in(add, {id(one): 1, id(other): 2}) == ((1, 2), {})


def test_shapes_by_tracing_a_call():
    class Vague(keras.layers.Layer):
        def call(self, x):
            return keras.ops.concatenate([x, x], axis=1)

        def compute_output_shape(self, shape):
            return (shape[0], None, shape[2])

    x, layer = keras.KerasTensor((1, 3, 2)), Vague()
    assert layer.compute_output_spec(x).shape == (1, None, 2)
    assert ks.traced_spec(layer, (x,), {}).shape == (1, 6, 2)


def test_constants_stay_arguments(model):
    (node,) = [
        n for n in ks.nodes_in_order(model) if ks.bare_operation_name(n.operation) == "Multiply"
    ]
    assert ks.call_arguments(node)[0][1] == 2.0
    assert len(ks.input_tensors(node)) == 1


def test_structures(model):
    inputs, outputs = ks.structure(model)
    assert set(inputs) == {"a", "b"}
    assert isinstance(outputs, (list, tuple)) and len(outputs) == 1


def test_the_graph_behind_every_kind_of_model(model):
    assert ks.functional_of(model) is model
    built = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    assert len(ks.nodes_in_order(ks.functional_of(built))) == 2
    assert ks.functional_of(keras.Sequential([L.Dense(2)])) is None

    class Own(keras.Model):
        pass

    assert ks.functional_of(Own()) is None

    class Doubled(keras.Model):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    inputs = keras.Input((3,))
    assert ks.functional_of(Doubled(inputs, L.Dense(2)(inputs))) is None

    class OwnStep(keras.Model):
        def train_step(self, data):
            return {}

    own_step = OwnStep(inputs, L.Dense(2)(inputs))
    assert ks.functional_of(own_step) is own_step


def test_masks_on_tensors():
    x = keras.Input((3,), dtype="int32")
    assert not ks.has_mask(x) and not ks.has_mask(L.Embedding(4, 2)(x))
    assert ks.has_mask(L.Embedding(4, 2, mask_zero=True)(x))


def test_what_a_bare_operation_was_made_with(model):
    x = keras.Input((4, 3))
    attributes = ks.given_attributes(ks.maker_of(ops.reshape(x, (-1, 12))))
    attributes.pop("_remat_mode", None)  # since Keras 3.14
    assert attributes == {"newshape": (-1, 12)}


def test_calls_can_be_forgotten():
    layers = [L.Dense(2)]
    known = layers[0](keras.Input((3,)))
    with ks.without_new_calls(lambda: layers):
        layers.append(L.Dense(4))
        layers[1](layers[0](keras.Input((3,))))
    assert [len(one._inbound_nodes) for one in layers] == [1, 0]
    assert [len(one._outbound_nodes) for one in layers] == [0, 0]
    assert ks.maker_of(known) is layers[0]


def test_names_of_bare_operations(model):
    assert ks.bare_operation_name(L.Dense(3)) is None
    names = {ks.bare_operation_name(node.operation) for node in ks.nodes_in_order(model)}
    assert names == {None, "Add", "Multiply"}


def test_makers_of_tensors(model):
    assert ks.maker_of(model.inputs[0]).name == "a"
    assert ks.maker_of(model.outputs[0]).name == "end"


def test_code_in_configurations_needs_trust():
    config = L.Lambda(lambda x: x * 2).get_config()
    if not keras.__version__.startswith(
        ("3.12.", "3.13.", "3.14.")
    ):  # which trust whoever calls this
        with pytest.raises(ValueError):
            L.Lambda.from_config(dict(config))
    with ks.trusted_deserialization():
        assert isinstance(L.Lambda.from_config(dict(config)), L.Lambda)
