"""The file made small is the converter's own in fewer bytes: same outputs on every runtime."""

import networks
import numpy as np
import pytest

from keras_dynhp.export import flatbuffer, litert, tflm, vela
from keras_dynhp.export.sharing import SharingBuilder
from keras_dynhp.export.tflite import export_tflite

CASES = [(name, kind) for name in ("resnet_8", "ds_cnn") for kind in (None, "int8", "int16x8")]
INT8 = [case for case in CASES if case[1] == "int8"]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def files(request, tmp_path_factory):
    """What the converter made of a network, what was written, and samples."""
    name, quantize = request.param
    folder = tmp_path_factory.mktemp("files")
    before, after = folder / "before", folder / "after"
    model = networks.with_weights(networks.NETWORKS[name](0.2))
    compact = flatbuffer.compact

    def keep(tree):
        # The reader's tree, packed by FlatBuffers' own builder, is the converter's file.
        builder = flatbuffer.schema.flatbuffers.Builder(1024)
        builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
        before.write_bytes(builder.Output())
        return compact(tree)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flatbuffer, "compact", keep)
        export_tflite(model, str(after), quantize, networks.samples(model, 100))
    return before, after, networks.samples(model, 50, seed=1)


@pytest.mark.sweep("int8")
def test_every_runtime_computes_the_same(files):
    before, after, x = files
    assert after.stat().st_size < before.stat().st_size - 2000
    arena = tflm.measure_arena(str(before))
    assert tflm.measure_arena(str(after)) == arena
    outputs = []
    for path in (before, after):
        for kernels in litert.KERNELS:
            interpreter = litert.make_interpreter(path.read_bytes(), kernels)
            given = litert.quantize(x, interpreter.get_input_details()[0])
            outputs += litert.run_raw(interpreter, [given])
        outputs += tflm.run(str(path), [given], arena)
    half = len(outputs) // 2
    for old, new in zip(outputs[:half], outputs[half:], strict=True):
        np.testing.assert_array_equal(old, new)
    assert np.ptp(outputs[0]) > 0


@pytest.mark.parametrize("files", INT8, indirect=True, ids=lambda case: case[0])
def test_vela_sees_the_same(files):
    before, after, _ = files
    assert vela.measure(str(after)) == vela.measure(str(before))


@pytest.mark.sweep("int8")
def test_nothing_is_written_twice_and_everything_is_aligned(files):
    _, after, _ = files
    content = after.read_bytes()
    tree = flatbuffer.read(content)
    assert flatbuffer.compact(tree) == content
    for buffer in tree.buffers[1:]:
        data = buffer.data.tobytes()
        assert content.count(data) == 1 or len(data) < 100
        assert any(place % 16 == 0 for place in _places(content, data))
    for tensor in tree.subgraphs[0].tensors:
        zeros = None if tensor.quantization is None else tensor.quantization.zeroPoint
        if zeros is not None and len(zeros) > 8:
            stored = len(zeros).to_bytes(4, "little") + zeros.tobytes()
            assert content.count(stored) == 1
            assert content.index(stored) % 8 == 4


def _places(content, data):
    place = content.find(data)
    while place >= 0:
        yield place
        place = content.find(data, place + 1)


def test_small_vectors_fill_the_gaps_before_large_ones():
    constants = [np.full(4, n, np.uint8) for n in range(1, 11)]
    small = [np.full(1, n, np.int32) for n in range(10)]
    builder = SharingBuilder()
    builder.write_vectors([*constants, *small])
    # Each constant takes 8 of 16 bytes with its length, and a small vector the other 8; the first
    # constant has 12 bytes behind it, which vectors of 8 cannot fill, so one comes at the end.
    assert builder.Offset() == 12 + 8 + 9 * 16 + 8
    before = builder.Offset()
    builder.CreateNumpyVector(constants[3])
    builder.CreateNumpyVector(small[7])
    assert builder.Offset() == before


def test_no_flatbuffer():
    with pytest.raises(ValueError, match="not a TensorFlow Lite file: 3 bytes"):
        flatbuffer.read(b"abc")


@pytest.mark.parametrize("steps", range(4, 64, 4))
def test_a_number_that_is_also_a_place_in_the_file_is_no_place(steps):
    """A PACK of 20 was written as the constant that lies 20 bytes before the end of the file."""
    tree = flatbuffer.schema.ModelT()
    options = flatbuffer.schema.PackOptionsT()
    options.valuesCount = steps
    operator = flatbuffer.schema.OperatorT(builtinOptions=options)
    operator.builtinOptionsType = flatbuffer.schema.BuiltinOptions.PackOptions
    tensor = flatbuffer.schema.TensorT(shape=np.array([4], np.int32), buffer=1)
    tree.subgraphs = [flatbuffer.schema.SubGraphT(tensors=[tensor], operators=[operator])]
    constant = np.arange(16, dtype=np.uint8)
    tree.buffers = [flatbuffer.schema.BufferT(), flatbuffer.schema.BufferT(data=constant)]
    read = flatbuffer.read(flatbuffer.compact(tree))
    assert read.subgraphs[0].operators[0].builtinOptions.valuesCount == steps
    np.testing.assert_array_equal(read.buffers[1].data, constant)
