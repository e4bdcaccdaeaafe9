"""Parts of a network, their averages, and what of them fits a budget."""

import keras
import numpy as np
import pytest
from flwr.app import Context, RecordDict

import keras_dynhp as dynhp
from keras_dynhp.federated.averaging import Average
from keras_dynhp.federated.client_state import recall, remember
from keras_dynhp.federated.fitting import widths_that_fit
from keras_dynhp.federated.layout import Layout
from keras_dynhp.federated.live import LiveNetwork
from keras_dynhp.memory.budget import Budget
from keras_dynhp.pruning.pace import shrinkage


def conv_net(filters=6):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(filters, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(8, "relu"),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def random_part(layout, seed, of=None):
    random = np.random.default_rng(seed)
    part = random.random(layout.neurons) < 0.6
    part = part if of is None else part & of
    for start in layout.offsets[:-1]:
        inside = start if of is None else start + np.flatnonzero(of[start:])[0]
        part[inside] = True
    return part


def test_a_part_has_the_weights_that_a_rebuild_keeps():
    model = conv_net()
    layout = Layout(model)
    part = random_part(layout, 1)
    full = [np.asarray(v) for v in layout.variables]
    live = LiveNetwork(model)
    live.shrink(part)
    places = live.layout.places(part, live.layout.everything())
    for value, mine, where in zip(full, live.weights(), places):
        mesh = np.ix_(*(where.get(a, np.arange(n)) for a, n in enumerate(value.shape)))
        np.testing.assert_array_equal(value[mesh], mine)
    assert [w.shape for w in live.weights()] == layout.shapes(part)


def test_how_many_times_smaller_each_variable_is():
    live = LiveNetwork(conv_net(6))
    part = live.layout.everything()
    part[[1, 4, 5, 6, 8, 10, 12]] = False  # 3 of 6 filters and 4 of 8 units
    live.shrink(part)
    times = shrinkage(live.groups, live.full_widths())
    found = [times.get(id(v), 1.0) for v in live.model.trainable_variables]
    # Kernel and bias of the convolution, scale and offset, kernel and bias of the two Dense.
    assert found == [2.0, 2.0, 2.0, 2.0, 4.0, 2.0, 2.0, 1.0]


def test_shrinking_in_two_steps_is_shrinking_at_once():
    whole = random_part(Layout(conv_net()), 2)
    part = random_part(Layout(conv_net()), 3, of=whole)
    keras.utils.set_random_seed(0)
    once, twice = LiveNetwork(conv_net()), LiveNetwork(conv_net())
    twice.set_weights(once.weights())
    once.shrink(part)
    twice.shrink(whole)
    twice.shrink(part)
    for a, b in zip(once.weights(), twice.weights()):
        np.testing.assert_array_equal(a, b)
    numbers = np.arange(once.layout.neurons)
    assert [v.tolist() for v in once.by_group(numbers).values()] == [
        v.tolist() for v in twice.by_group(numbers).values()
    ]


def test_the_average_counts_a_client_only_where_it_has_neurons():
    """Against the plain formula, element by element."""
    layout = Layout(conv_net())
    random = np.random.default_rng(0)
    whole = layout.everything()
    own = [random.normal(size=s).astype("float32") for s in layout.shapes(whole)]
    average = Average(layout, whole, own)
    sums = [np.zeros(v.shape) for v in own]
    counts = [np.zeros(v.shape) for v in own]
    score_sums, score_counts = np.zeros(layout.neurons), np.zeros(layout.neurons)
    for seed, examples in ((1, 10), (2, 30), (3, 7)):
        part = random_part(layout, seed)
        part[5] = False  # nobody has it
        weights = [random.normal(size=s).astype("float32") for s in layout.shapes(part)]
        scores = random.random(int(part.sum()))
        average.add(part, weights, scores, examples)
        for total, count, value, where in zip(sums, counts, weights, layout.places(part, whole)):
            for at in np.ndindex(value.shape):
                there = tuple(where[a][i] if a in where else i for a, i in enumerate(at))
                total[there] += examples * value[at]
                count[there] += examples
        score_sums[part] += examples * scores
        score_counts[part] += examples
    for mine, total, count, old in zip(average.weights(), sums, counts, own):
        expected = np.where(count > 0, total / np.maximum(count, 1), old)
        np.testing.assert_allclose(mine, expected, rtol=1e-5)
    expected = np.where(score_counts > 0, score_sums / np.maximum(score_counts, 1), -1.0)
    np.testing.assert_allclose(average.scores(np.full(layout.neurons, -1.0)), expected)
    assert (score_counts == 0).any() and any((count == 0).any() for count in counts)


def test_the_neurons_worth_most_are_in_every_part():
    layout = Layout(conv_net())
    worth = np.random.default_rng(0).random(layout.neurons)
    small = layout.narrowed(layout.everything(), [2, 3], worth)
    large = layout.narrowed(layout.everything(), [4, 9], worth)
    assert layout.widths(small) == [2, 3] and layout.widths(large) == [4, 8]
    assert not (small & ~large).any()
    assert worth[:6][small[:6]].min() > worth[:6][~small[:6]].max()


def test_fingerprints_tell_networks_apart_but_not_processes():
    prints = {Layout(conv_net()).fingerprint for _ in range(2)}  # layers have other names
    assert len(prints) == 1
    prints.add(Layout(conv_net(filters=7)).fingerprint)
    assert len(prints) == 2


def wide():
    model = keras.Sequential(
        [
            keras.Input((256,)),
            keras.layers.Dense(1024, "relu"),
            keras.layers.Dense(256, "relu"),
            keras.layers.Dense(3),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_the_largest_part_that_fits():
    model = wide()
    layout = Layout(model)
    everything = layout.everything()
    sums = [
        sum(widths_that_fit(layout, everything, Budget(size), model, 8))
        for size in ("3MB", "6MB", "64MB")
    ]
    assert sums[0] < sums[1] < sums[2] == 1280
    # The next larger part does not fit.
    widths = widths_that_fit(layout, everything, Budget("6MB"), model, 8)
    share = widths[0] * 32 // 1024
    needs = {}
    for step in (share, share + 1):
        live = LiveNetwork(wide())
        live.shrink(layout.narrowed(everything, [1024 * step // 32, 256 * step // 32]))
        needs[step] = Budget("6MB").largest_batch(live.model, "adam", 64)
    assert needs[share] >= 8 > needs[share + 1]
    with pytest.raises(dynhp.BudgetError):
        widths_that_fit(layout, everything, Budget("10KB"), model, 8)


def context():
    return Context(1, 1, {}, RecordDict(), {})


def trained(part, seed=0):
    live = LiveNetwork(conv_net())
    live.shrink(part)
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(16, 8, 8, 1)).astype("float32"), random.integers(0, 3, 16)
    live.model.fit(x, y, batch_size=4, verbose=0)
    return live


def test_what_fits_of_a_network_that_leaves_a_length_open_depends_on_the_samples():
    def reader(length):
        model = keras.Sequential(
            [
                keras.Input((length, 4)),
                keras.layers.Conv1D(64, 3, activation="relu"),
                keras.layers.GlobalMaxPooling1D(),
                keras.layers.Dense(3),
            ]
        )
        model.compile("adam", "mse")
        return model

    def width(model, length):
        layout = Layout(model)
        whole, budget = layout.everything(), Budget("2MB")
        return widths_that_fit(layout, whole, budget, model, 8, (length, 4))

    assert width(reader(None), 100) == width(reader(100), 100)
    assert width(reader(None), 400) == width(reader(400), 400) < width(reader(None), 100)


def test_the_surviving_part_of_the_optimizer_is_kept():
    """Neurons that stay keep their slots, new ones begin with zeros, the clock goes on."""
    layout = Layout(conv_net())
    then = random_part(layout, 4)
    now = random_part(layout, 5)
    assert (now & ~then).any() and (then & ~now).any()
    before, kept = trained(then), context()
    remember(kept, before, None)
    record = kept.state["keras_dynhp"]["state"]
    assert isinstance(record, bytes) and b"pickle" not in record
    after = LiveNetwork(conv_net())
    after.shrink(now)
    after.model.optimizer.build(after.model.trainable_variables)
    recall(kept, after)
    assert int(after.model.optimizer.iterations) == 4
    both = then & now
    for old, new in ((before, after),):
        slots = zip(old.model.optimizer._momentums, new.model.optimizer._momentums)
        numbers = {id(v): i for i, v in enumerate(old.variables)}
        for (a, b), variable in zip(slots, old.model.trainable_variables):
            i = numbers[id(variable)]
            source, place = layout.places(both, then)[i], layout.places(both, now)[i]
            a, b = np.asarray(a), np.asarray(b)
            mesh = [
                np.ix_(*(w.get(x, np.arange(n)) for x, n in enumerate(v.shape)))
                for w, v in ((source, a), (place, b))
            ]
            np.testing.assert_array_equal(a[mesh[0]], b[mesh[1]])
            rest = b.copy()
            rest[mesh[1]] = 0
            assert not rest.any()
            assert a[mesh[0]].any()


def test_the_state_of_another_network_is_ignored():
    kept = context()
    remember(kept, trained(Layout(conv_net()).everything()), None)
    other = LiveNetwork(wide())
    other.model.optimizer.build(other.model.trainable_variables)
    recall(kept, other)
    assert int(other.model.optimizer.iterations) == 0


def test_a_part_has_statistics_and_vocabularies_of_the_network():
    numbers, words = keras.Input((3,)), keras.Input((1,), dtype="int64")
    norm, lookup = keras.layers.Normalization(), keras.layers.IntegerLookup(output_mode="one_hot")
    data = np.random.default_rng(0).normal(4, 3, (50, 3)).astype("float32")
    norm.adapt(data)
    lookup.adapt(np.array([[7], [8], [9]]))
    x = keras.layers.Concatenate()([norm(numbers), lookup(words)])
    x = keras.layers.Dense(8, "relu", name="hidden")(x)
    model = keras.Model([numbers, words], keras.layers.Dense(2)(x))
    inputs = [data[:4], np.array([[7], [8], [9], [5]])]
    kernel, bias = model.get_layer("hidden").get_weights()
    kernel[:, 4:], bias[4:] = 0, 0
    model.get_layer("hidden").set_weights([kernel, bias])
    wanted = model(inputs).numpy()
    live, part = LiveNetwork(model), np.arange(8) < 4
    places = live.layout.places(part, live.layout.everything())
    weights = [
        value[np.ix_(*(where.get(a, np.arange(n)) for a, n in enumerate(value.shape)))]
        for value, where in zip(live.weights(), places)
    ]
    live.shrink(part, values=False)
    live.set_weights(weights)
    assert model.get_layer("hidden").units == 4
    np.testing.assert_allclose(model(inputs), wanted, rtol=1e-5, atol=1e-6)
