import pytest

from bridge_engine.modelgen import PRESETS, DeepSeekShape, LlamaShape, ShapeFault, generate
from bridge_engine.modelgen.shapes import parameter_count


def test_the_tiny_shape_has_the_parameters_of_the_recorded_one():
    assert parameter_count(PRESETS["tiny"]) == 115_520


def test_the_7b_shape_is_one():
    assert 6.4e9 < parameter_count(PRESETS["7b"]) < 7.5e9


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_sound_and_names_each_tensor_once(name):
    shape = PRESETS[name]
    shape.validate()
    names = [tensor.name for tensor in shape.tensors()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 3}, "width must divide by heads"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"vocabulary": 10}, "vocabulary must be at least 260"),
    ],
)
def test_a_contradictory_shape_says_what_is_wrong(change, said):
    fields = {"layers": 2, "width": 64, "heads": 4, "kv_heads": 4, "feed_forward": 128}
    with pytest.raises(ShapeFault, match=said):
        LlamaShape(**(fields | change)).validate()


def test_more_experts_used_than_there_are_is_a_fault():
    tiny = PRESETS["tiny-deepseek2"]
    assert isinstance(tiny, DeepSeekShape)
    fields = {name: getattr(tiny, name) for name in tiny.__dataclass_fields__}
    with pytest.raises(ShapeFault, match="experts_used"):
        DeepSeekShape(**(fields | {"experts_used": 9})).validate()


def test_rows_that_blocks_cannot_cut_are_refused_before_a_file_appears(tmp_path):
    shape = LlamaShape(layers=1, width=48, heads=4, kv_heads=4, feed_forward=96)
    with pytest.raises(ShapeFault, match="blocks of 32"):
        generate(tmp_path / "x.gguf", shape, weights="q4_0")
    assert list(tmp_path.iterdir()) == []
