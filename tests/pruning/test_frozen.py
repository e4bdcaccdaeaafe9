"""Transfer learning: what frozen layers read stays whole in training, and is named."""

import keras
import numpy as np
import pytest
from keras import layers as L

import keras_dynhp as dynhp
from keras_dynhp.pruning.frozen import find_unfrozen_groups

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(96, 8, 8, 1)).astype("float32"), RANDOM.integers(0, 3, 96)


def backbone():
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(6, 3, padding="same", activation="relu", name="first")(inputs)
    x = L.BatchNormalization(name="norm")(x)
    y = L.Conv2D(5, 3, padding="same", activation="relu", name="inner")(x)
    x = L.Add()([x, L.Conv2D(6, 1, name="back")(y)])
    return keras.Model(inputs, L.Conv2D(12, 3, activation="relu", name="features")(x), name="base")


def classifier(base):
    inputs = keras.Input((8, 8, 1))
    x = L.GlobalAveragePooling2D()(base(inputs, training=False))
    x = L.Dense(16, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, L.Dense(3, name="head")(x))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("criterion", ["taylor", "magnitude", "random"])
def test_a_frozen_backbone_keeps_its_inside_and_loses_features(criterion):
    base = backbone()
    base.trainable = False
    model = classifier(base)
    before = [v.numpy() for v in base.get_layer("inner").variables]
    hp = dynhp.DynHP(target=dynhp.Target(params=model.count_params() - 400), criterion=criterion)
    model.fit(X, Y, epochs=6, verbose=0, callbacks=[hp])

    small = model.get_layer("base")
    assert [small.get_layer(n).filters for n in ("first", "inner", "back")] == [6, 5, 6]
    for variable, value in zip(small.get_layer("inner").variables, before):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert small.get_layer("features").filters < 12
    assert not small.trainable_weights
    reasons = {name: why for name, why in hp.report.kept.items() if "frozen" in why}
    assert set(reasons) == {"base/first", "base/inner"}, hp.report
    assert "read by frozen layers" in str(hp.report)


def test_one_frozen_reader_is_enough_and_a_frozen_maker_is_not():
    base = backbone()
    groups = find_unfrozen_groups(base)
    assert [group.name for group in groups] == ["first", "inner"]
    base.get_layer("inner").trainable = False  # reads "first" beside "features"; makes "inner"
    assert [group.name for group in find_unfrozen_groups(base)] == ["inner"]
    base.get_layer("inner").trainable = True
    base.get_layer("norm").trainable = False  # neither reads nor makes
    assert [group.name for group in find_unfrozen_groups(base)] == ["first", "inner"]


def test_what_no_weights_read_is_judged_by_what_makes_it():
    left, right = keras.Input((6,)), keras.Input((6,))
    x, y = L.Dense(5, name="x")(left), L.Dense(5, name="y")(right)
    model = keras.Model([left, right], L.Dot(axes=1)([x, y]))
    assert find_unfrozen_groups(model).neurons == 5
    model.get_layer("y").trainable = False
    assert find_unfrozen_groups(model).neurons == 5
    model.get_layer("x").trainable = False
    (group,) = [g for g in find_unfrozen_groups(model).kept if g.size == 5]
    assert group.reason == "made by frozen layers"


def test_a_model_with_nothing_else_is_refused_with_the_reason():
    frozen = L.Dense(4, trainable=False, name="reader")
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), L.Flatten(), L.Dense(5), frozen, L.LayerNormalization(axis=-1)]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="read by frozen layers"):
        model.fit(X, Y, verbose=0, callbacks=[dynhp.DynHP()])


def test_prune_takes_from_frozen_layers_too():
    base = backbone()
    base.trainable = False
    small = dynhp.prune(classifier(base), dynhp.Target(compression=20))
    assert small.get_layer("base").get_layer("inner").filters < 5


def test_layers_unfrozen_between_two_fits_are_pruned_in_the_second():
    """As Keras's guide to transfer learning does it: first the head, then all."""
    base = backbone()
    base.trainable = False
    model = classifier(base)
    full = model.count_params()
    hp = dynhp.PruneAndRebuild(dynhp.Target(params=full - 500))
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[hp])
    widths = hp._engine.widths()
    assert hp.on_target and set(widths) == {"base/features", "hidden"}
    hp._engine.goals.limits["params"] = full / 5  # as if it had been on the way there
    base.trainable = True
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, epochs=4, verbose=0, callbacks=[hp])
    assert hp.on_target and model.count_params() <= full / 5
    now = hp._engine.widths()
    assert set(now) == {*widths, "base/first", "base/inner"}
    assert all(now[name] <= width for name, width in widths.items())
    assert now["base/first"] == base.get_layer("first").filters
    assert now["base/inner"] == base.get_layer("inner").filters < 5
    assert not any("frozen" in why for why in hp.report.kept.values())


def test_layers_frozen_between_two_fits_stay_whole_in_the_second():
    """They have no gradients any more: as worth nothing, they would be the first to go."""
    base = backbone()
    model = classifier(base)
    full = model.count_params()
    hp = dynhp.PruneAndRebuild(dynhp.Target(params=full - 200))
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[hp])
    before = [base.get_layer(name).filters for name in ("first", "inner")]
    hp._engine.goals.limits["params"] = model.count_params() - 300
    base.trainable = False
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, epochs=4, verbose=0, callbacks=[hp])
    assert hp.on_target
    assert [base.get_layer(name).filters for name in ("first", "inner")] == before
    hp._engine.goals.limits["params"] = 1
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.get_layer("hidden").trainable = False
    with pytest.raises(ValueError, match="The target can't be met"):
        model.fit(X, Y, epochs=1, verbose=0, callbacks=[hp])
