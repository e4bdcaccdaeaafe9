"""Optimizers that Keras does not know: what can be followed is, the rest starts afresh, named."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

from keras_dynhp.rebuild.optimizer import plan_optimizer, register_slot_rule
from keras_dynhp.rebuild.transfer import Transfer

KEPT = np.array([0, 2])


class Own(keras.optimizers.SGD):
    """SGD with whatever state `make_slots` gives it."""

    def build(self, variables):
        super().build(variables)
        self.make_slots(variables)

    def make_slots(self, variables):
        raise NotImplementedError


def built(optimizer_class, steps: int = 2):
    """A kernel that will lose its middle column, a bias that stays whole, and their optimizer."""
    model = [keras.Variable(np.ones((4, 3), "float32"), name="kernel")]
    model += [keras.Variable(np.ones(2, "float32"), name="bias")]
    optimizer = optimizer_class(0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.apply([keras.ops.full(v.shape, 2.0) for v in model], model)
    return optimizer, model


def transfers_of(model, kept=KEPT):
    kernel, bias = model
    new = keras.Variable(np.ones((4, len(kept)), "float32"), name="kernel")
    whole = keras.Variable(np.ones(2, "float32"), name="bias")
    return [Transfer(kernel, new, {1: kept}), Transfer(bias, whole, {})]


def cut(optimizer, model):
    """The surgery; what it warned of, and the new model's variables."""
    transfers = transfers_of(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan_optimizer(optimizer, transfers).commit()
    new = [transfer.new for transfer in transfers]
    optimizer.apply([keras.ops.full(v.shape, 2.0) for v in new], new)
    return [str(warning.message) for warning in caught], new


def numbered(variables):
    """Give variables values that tell every number from every other."""
    for variable in variables:
        size = int(np.prod(variable.shape))
        variable.assign(np.arange(1, size + 1, dtype=variable.dtype).reshape(variable.shape))


class OddSlots(Own):
    def make_slots(self, variables):
        self.flat = [self.add_variable((v.shape.num_elements(),), name="flat") for v in variables]
        self.gram = [self.add_variable((v.shape[0],) * 2, name="gram") for v in variables]
        self.shaped = self.add_optimizer_variables(variables, "shaped")
        self.norms = [self.add_variable((), name="norm") for v in variables]
        self.history = self.add_variable((5,), name="history")


def test_slots_of_unknown_shape_start_afresh_with_one_warning_that_names_them():
    optimizer, model = built(OddSlots)
    numbered([*optimizer.flat, *optimizer.gram, *optimizer.shaped, *optimizer.norms])
    numbered([optimizer.history])
    plan = plan_optimizer(optimizer, transfers_of(model))
    assert plan.afresh == [f"{optimizer.name}.{name}[kernel]" for name in ["flat", "gram"]]
    caught, _ = cut(optimizer, model)
    assert len(caught) == 1
    assert all(name in caught[0] for name in [*plan.afresh, "OddSlots", "register_slot_rule"])
    np.testing.assert_array_equal(optimizer.flat[0].numpy(), np.zeros(8))
    np.testing.assert_array_equal(optimizer.gram[0].numpy(), np.zeros((4, 4)))
    # The bias lost nothing, so all its slots go on; so do single numbers and unchanged shapes.
    np.testing.assert_array_equal(optimizer.flat[1].numpy(), [1, 2])
    np.testing.assert_array_equal(optimizer.gram[1].numpy(), [[1, 2], [3, 4]])
    expected = np.arange(1, 13).reshape(4, 3)[:, KEPT]
    np.testing.assert_array_equal(optimizer.shaped[0].numpy(), expected)
    assert [float(norm.numpy()) for norm in optimizer.norms] == [1, 1]
    np.testing.assert_array_equal(optimizer.history.numpy(), [1, 2, 3, 4, 5])
    assert len(optimizer.variables) == 2 + 2 + 4 * 2 + 1


def test_a_registered_rule_keeps_them():
    class WithRule(OddSlots):
        pass

    @register_slot_rule(WithRule, "flat")
    def flat(transfer):
        positions = np.arange(np.prod(transfer.old.shape)).reshape(transfer.old.shape)
        return {0: transfer.take(positions).ravel()}

    register_slot_rule(WithRule, "gram")(lambda transfer: {})  # one row and column for each input
    optimizer, model = built(WithRule)
    numbered([*optimizer.flat, *optimizer.gram])
    caught, _ = cut(optimizer, model)
    assert caught == []
    np.testing.assert_array_equal(optimizer.flat[0].numpy(), [1, 3, 4, 6, 7, 9, 10, 12])
    np.testing.assert_array_equal(optimizer.gram[0].numpy(), np.arange(1, 17).reshape(4, 4))


def test_a_rule_that_does_not_fit_its_slot_raises_while_planning():
    class WithBadRule(OddSlots):
        pass

    register_slot_rule(WithBadRule, "gram")(lambda transfer: {1: np.array([0, 4])})
    optimizer, model = built(WithBadRule)
    before = [variable.numpy() for variable in optimizer.variables]
    with pytest.raises(ValueError, match=r"slot rule for WithBadRule.gram .* shape \(4, 4\)"):
        plan_optimizer(optimizer, transfers_of(model))
    for variable, value in zip(optimizer.variables, before):
        np.testing.assert_array_equal(variable.numpy(), value)


class Containers(Own):
    """Containers made in `__init__` and filled in `build`, and state made in `__init__`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.appended = []
        self.nested = {"first": [], "second": []}
        self.by_path = {}
        self.own = self.add_variable((3,), name="own")
        # As many as model variables: not to be taken for their slots when `build` leaves them.
        self.pair = [self.add_variable((), name="p"), self.add_variable((), name="q")]

    def make_slots(self, variables):
        for variable in variables:
            self.appended.append(self.add_variable_from_reference(variable, "appended"))
            for kind in ["first", "second"]:
                self.nested[kind].append(self.add_variable_from_reference(variable, kind))
            self.by_path[variable.path] = self.add_variable_from_reference(variable, "by_path")


def test_containers_made_before_build_are_followed():
    optimizer, model = built(Containers)
    slots = [optimizer.appended, *optimizer.nested.values(), list(optimizer.by_path.values())]
    numbered([optimizer.own, *(slot for pair in slots for slot in pair)])
    optimizer.pair[1].assign(7.0)
    own, pair, count = optimizer.own, list(optimizer.pair), len(optimizer.variables)
    caught, new = cut(optimizer, model)
    assert caught == []
    slots = [optimizer.appended, *optimizer.nested.values(), list(optimizer.by_path.values())]
    for kernel, bias in slots:
        np.testing.assert_array_equal(kernel.numpy(), np.arange(1, 13).reshape(4, 3)[:, KEPT])
        np.testing.assert_array_equal(bias.numpy(), [1, 2])
    assert list(optimizer.by_path) == [variable.path for variable in new]
    assert optimizer.own is own and list(optimizer.pair) == pair
    np.testing.assert_array_equal(own.numpy(), [1, 2, 3])
    assert [float(p.numpy()) for p in pair] == [0.0, 7.0]
    assert len(optimizer.variables) == count


class Helper(Own):
    """Its slots are in an object of another kind, and it holds the model variables."""

    def make_slots(self, variables):
        self.seen = variables
        self.helper = type("Memory", (), {})()
        self.helper.scale = self.add_variable((), name="scale")
        self.helper.slots = self.add_optimizer_variables(variables, "hidden")


def test_slots_out_of_sight_start_afresh_where_they_changed_shape():
    optimizer, model = built(Helper)
    numbered([optimizer.helper.scale, *optimizer.helper.slots])
    count = len(optimizer.variables)
    caught, new = cut(optimizer, model)
    assert len(caught) == 1 and "kernel_hidden" in caught[0] and "bias_hidden" not in caught[0]
    assert float(optimizer.helper.scale.numpy()) == 1.0
    np.testing.assert_array_equal(optimizer.helper.slots[0].numpy(), np.zeros((4, 2)))
    np.testing.assert_array_equal(optimizer.helper.slots[1].numpy(), [1, 2])
    assert len(optimizer.variables) == count
    assert [id(variable) for variable in optimizer.seen] == [id(variable) for variable in new]


class Wrapper(keras.optimizers.Optimizer):
    """A user's wrapper: averages what an inner optimizer arrives at (Lookahead)."""

    def __init__(self, learning_rate=0.1, momentum=0.9):
        super().__init__(learning_rate)
        self.inner = keras.optimizers.SGD(learning_rate, momentum)

    def build(self, variables):
        super().build(variables)
        self.inner.build(variables)
        self.slow = self.add_optimizer_variables(variables, "slow")

    def update_step(self, gradient, variable, learning_rate):
        self.inner.update_step(gradient, variable, learning_rate)
        slow = self.slow[self._get_variable_index(variable)]
        self.assign(slow, 0.5 * slow + 0.5 * variable)


def test_a_wrapper_of_a_user_and_what_it_wraps():
    optimizer, model = built(Wrapper)
    slots = [*optimizer.slow, *optimizer.inner.momentums]
    numbered(slots)
    inner = optimizer.inner
    transfers = transfers_of(model)
    plan_optimizer(optimizer, transfers).commit()
    assert optimizer.inner is inner
    expected = np.arange(1, 13).reshape(4, 3)[:, KEPT]
    for kernel, bias in [optimizer.slow, inner.momentums]:
        np.testing.assert_array_equal(kernel.numpy(), expected)
        np.testing.assert_array_equal(bias.numpy(), [1, 2])
    new = [transfer.new for transfer in transfers]
    optimizer.apply([keras.ops.ones(v.shape) for v in new], new)


def test_no_warning_where_nothing_is_cut():
    optimizer, model = built(OddSlots)
    transfers = [Transfer(v, keras.Variable(v.numpy(), name=v.name), {}) for v in model]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan_optimizer(optimizer, transfers).commit()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda transfers: transfers[1:], "no transfer: kernel"),
        (lambda transfers: [*transfers, transfers[0]], "Two transfers start from .*kernel"),
    ],
)
def test_a_plan_that_cannot_work_raises_and_changes_nothing(change, says):
    optimizer, model = built(OddSlots)
    before = [(variable, variable.numpy()) for variable in optimizer.variables]
    with pytest.raises(ValueError, match=says):
        plan_optimizer(optimizer, change(transfers_of(model)))
    assert all(new is old for new, (old, _) in zip(optimizer.variables, before, strict=True))
    for variable, value in before:
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_plan_changes_nothing_and_is_carried_out_once():
    optimizer, model = built(OddSlots)
    before = [(variable, variable.numpy()) for variable in optimizer.variables]
    plan = plan_optimizer(optimizer, transfers_of(model))
    for variable, value in before:
        np.testing.assert_array_equal(variable.numpy(), value)
    optimizer.apply([keras.ops.full(v.shape, 2.0) for v in model], model)
    with pytest.warns(UserWarning, match="start afresh"):
        plan.commit()
    with pytest.raises(ValueError, match="carried out before"):
        plan.commit()


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="Received: adam"):
        plan_optimizer("adam", [])
