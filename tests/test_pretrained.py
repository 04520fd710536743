"""Checkpoints: every form of the same weights loads to the same parameters, what doesn't fit is refused."""

import json
import pickle
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import erf

from ecrec_jax import net, pretrained, weights
from ecrec_jax.types import InputError
from tests.conftest import GOLDEN

CLASSIFIER, MASKED = GOLDEN / "bert" / "sequence_classification", GOLDEN / "bert" / "masked_lm"
WORDS, QUERY = "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight"
GIVEN = np.load(GOLDEN / "bert" / "golden.npz")
REAL = GIVEN["attention_mask"].astype("i4")
BATCH = {"tokens": GIVEN["input_ids"], "segment": REAL, "type": GIVEN["token_type_ids"],
         "position": (np.arange(REAL.shape[1]) * REAL).astype("i4"), "slot": np.tile(np.array([[0, 3]], "i4"), (len(REAL), 1))}


def checkpoint(folder, tensors, source=CLASSIFIER, **config):
    """A folder with the source's config.json, changed, and these tensors."""
    folder.mkdir(exist_ok=True)
    given = json.loads((source / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(given))
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def file_of(source):
    return load_file(source / "model.safetensors")


def parameters(loaded):
    return {name: np.asarray(x) for name, x in net.split(loaded.net)[1].items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert not [name for name in one if one[name].dtype != other[name].dtype or not np.array_equal(one[name], other[name])]


def renamed(rule):
    return lambda source: {rule(name): x for name, x in file_of(source).items()}


def old_norms(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def repeated_decoder(source):
    given = file_of(source)
    return given | {"cls.predictions.decoder.weight": given[WORDS], "cls.predictions.decoder.bias": given["cls.predictions.bias"]}


FORMS = {
    "no prefix": (CLASSIFIER, renamed(lambda name: name.removeprefix("bert."))),
    "gamma and beta": (CLASSIFIER, renamed(old_norms)),
    "position ids": (CLASSIFIER, lambda source: file_of(source) | {"bert.embeddings.position_ids": np.arange(64)[None]}),
    "bare position ids": (CLASSIFIER, lambda source: file_of(source) | {"embeddings.position_ids": np.arange(64)[None]}),
    "masked-LM, gamma and beta": (MASKED, renamed(old_norms)),
    "explicit tied decoder": (MASKED, repeated_decoder),
    "only the decoder's bias": (MASKED, lambda source: {n: x for n, x in repeated_decoder(source).items()
                                                        if n != "cls.predictions.bias"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_file_load_to_the_same_parameters(form, tmp_path):
    source, tensors = FORMS[form]
    head = "masked_lm" if source == MASKED else "sequence_classification"
    loaded = pretrained.load(checkpoint(tmp_path / "form", tensors(source), source), head)
    assert_same(parameters(loaded), parameters(pretrained.load(str(source), head)))
    assert loaded.report == {"new": [], "unread": []}


def test_parameters_are_the_files():
    given, found = file_of(CLASSIFIER), parameters(pretrained.load(str(CLASSIFIER), "sequence_classification"))
    assert len(found) == len(given)
    assert np.array_equal(found["model.encoder.layer.0.attention.self.query.kernel"], given[QUERY].T)
    assert np.array_equal(found["model.embeddings.word_embeddings.embedding"], given[WORDS])
    assert np.array_equal(found["head.classifier.kernel"], given["classifier.weight"].T)


def test_msgpack_and_shards(tmp_path):
    wanted = parameters(pretrained.load(str(CLASSIFIER), "sequence_classification"))
    assert_same(wanted, parameters(pretrained.load(f"{CLASSIFIER}_flax", "sequence_classification")))
    given, names = file_of(CLASSIFIER), [f"model-0000{i + 1}-of-00003.safetensors" for i in range(3)]
    place = {name: names[i % 3] for i, name in enumerate(given)}
    shutil.copy(CLASSIFIER / "config.json", tmp_path)
    for file in names:
        save_file({name: given[name] for name in given if place[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    assert_same(wanted, parameters(pretrained.load(str(tmp_path), "sequence_classification")))
    (tmp_path / names[1]).unlink()
    with pytest.raises(InputError, match=names[1]):
        pretrained.load(str(tmp_path))


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_files_load_to_f32(dtype, tmp_path):
    given = {name: x.astype(dtype) for name, x in file_of(CLASSIFIER).items()}
    found = parameters(pretrained.load(checkpoint(tmp_path / "half", given), "sequence_classification"))
    whole = {name: x.astype("f4") for name, x in given.items()}
    assert_same(found, parameters(pretrained.load(checkpoint(tmp_path / "whole", whole), "sequence_classification")))
    assert not np.array_equal(whole[WORDS], file_of(CLASSIFIER)[WORDS])


def test_missing_pooler_and_head_come_from_the_seed(tmp_path):
    given = {name: x for name, x in file_of(CLASSIFIER).items() if "pooler" not in name and "classifier" not in name}
    folder = checkpoint(tmp_path / "bare", given)
    one, again, other = (pretrained.load(folder, "sequence_classification", seed=seed) for seed in (3, 3, 4))
    new = {"model.pooler.dense.kernel", "model.pooler.dense.bias", "head.classifier.kernel", "head.classifier.bias"}
    assert set(one.report["new"]) == new and one.report["unread"] == []
    assert_same(parameters(one), parameters(again))
    assert {name for name, x in parameters(one).items() if not np.array_equal(x, parameters(other)[name])} == \
        {name for name in new if name.endswith("kernel")}
    assert not [name for name in parameters(pretrained.load(folder)) if "pooler" in name]


def test_what_a_checkpoint_gives_is_not_drawn(tmp_path, monkeypatch):
    """And a head that it lacks is the one that follows when all is drawn."""
    folder = checkpoint(tmp_path / "headless", {name: x for name, x in file_of(CLASSIFIER).items() if "classifier" not in name})
    drawn, right = [], weights.nnx.initializers.normal
    monkeypatch.setattr(weights.nnx.initializers, "normal", lambda spread: drawn.append(spread) or right(spread))
    found = pretrained.load(folder, "sequence_classification")
    assert len(drawn) == 1 and set(found.report["new"]) == {"head.classifier.kernel", "head.classifier.bias"}
    monkeypatch.setattr(pretrained, "whole", lambda source, facts: False)
    assert_same(parameters(found), parameters(pretrained.load(folder, "sequence_classification")))
    assert len(drawn) > 10


def masked_by_numpy(given):
    """Logits of an untied masked-LM head at the slots: LayerNorm(gelu(W h + b)), times the decoder."""
    hidden = np.asarray(pretrained.load(str(MASKED))(BATCH), "f8")
    x = np.take_along_axis(hidden, BATCH["slot"][:, :, None], 1)
    head = {name.removeprefix("cls.predictions."): given[name].astype("f8") for name in given if name.startswith("cls.")}
    x = x @ head["transform.dense.weight"].T + head["transform.dense.bias"]
    x = x * (1 + erf(x / np.sqrt(2))) / 2
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    x = x * head["transform.LayerNorm.weight"] + head["transform.LayerNorm.bias"]
    return x @ head["decoder.weight"].T + head["decoder.bias"]


@pytest.mark.parametrize("tied", [False, True])
def test_untied_decoder(tied, tmp_path):
    rng = np.random.default_rng(0)
    given = file_of(MASKED) | {"cls.predictions.decoder.weight": rng.normal(size=(800, 32)).astype("f4"),
                               "cls.predictions.decoder.bias": rng.normal(size=800).astype("f4")}
    loaded = pretrained.load(checkpoint(tmp_path / "untied", given, MASKED, tie_word_embeddings=tied), "masked_lm")
    assert np.abs(np.asarray(loaded(BATCH)) - masked_by_numpy(given)).max() <= 1e-4
    pretrained.save(loaded, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert all(np.array_equal(written[f"cls.predictions.decoder.{leaf}"], given[f"cls.predictions.decoder.{leaf}"])
               for leaf in ("weight", "bias"))
    assert_same(parameters(pretrained.load(str(tmp_path / "out"), "masked_lm")), parameters(loaded))


def test_one_error_lists_all_misfits(tmp_path):
    given = file_of(CLASSIFIER)
    del given[QUERY]
    given |= {"bert.encoder.layer.2.attention.self.query.weight": np.zeros((32, 32), "f4"),
              "bert.encoder.layer.1.intermediate.dense.bias": np.zeros(95, "f4")}
    with pytest.raises(InputError) as error:
        pretrained.load(checkpoint(tmp_path / "misfit", given), "sequence_classification")
    for words in ("encoder.layer.0.attention.self.query.kernel is missing", "(95,), (96,) is needed",
                  "encoder.layer.2.attention.self.query.kernel is not known", str(tmp_path / "misfit")):
        assert words in str(error.value)


@pytest.mark.parametrize(("extra", "words"), [
    ({"classifier.weight": np.zeros((5, 32), "f4")}, "head.classifier.kernel has shape (32, 5), (32, 3) is needed"),
    ({"embeddings.LayerNorm.weight": np.ones(32, "f4")}, "two tensors, under different names"),
    ({"vision.patch.weight": np.ones((2, 2), "f4")}, "vision.patch.kernel is not known"),
])
def test_tensors_that_do_not_fit(extra, words, tmp_path):
    with pytest.raises(InputError) as error:
        pretrained.load(checkpoint(tmp_path / "misfit", file_of(CLASSIFIER) | extra), "sequence_classification")
    assert words in str(error.value)


def test_heads_not_asked_for_are_listed(tmp_path):
    report = pretrained.load(str(CLASSIFIER), "masked_lm").report
    assert set(report["unread"]) == {f"{part}.{leaf}" for part in ("head.classifier", "model.pooler.dense")
                                     for leaf in ("kernel", "bias")}
    assert "head.transform.dense.kernel" in report["new"] and "head.bias" in report["new"]
    both = file_of(MASKED) | {"cls.seq_relationship.weight": np.zeros((2, 32), "f4")}
    report = pretrained.load(checkpoint(tmp_path / "both", both, MASKED), "masked_lm").report
    assert report == {"new": [], "unread": ["head.next_sentence.kernel"]}
    assert pretrained.load(str(CLASSIFIER)).report["unread"] == ["head.classifier.bias", "head.classifier.kernel"]


def test_an_unknown_head():
    with pytest.raises(InputError, match="pooling.*masked_lm"):
        pretrained.load(str(CLASSIFIER), "pooling")


def cut(name, share=0.6):
    def rule(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])
    return rule


def config(**changes):
    return lambda folder: (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | changes))


def index(content):
    def rule(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(content)
    return rule


REFUSED = {
    "relative positions": (CLASSIFIER, config(position_embedding_type="relative_key"), "position_embedding_type.*relative_key"),
    "decoder": (CLASSIFIER, config(is_decoder=True), "is_decoder"),
    "cross attention": (CLASSIFIER, config(add_cross_attention=True), "add_cross_attention"),
    "other model": (CLASSIFIER, config(model_type="roberta"), "model_type.*roberta"),
    "odd heads": (CLASSIFIER, config(num_attention_heads=5), "num_attention_heads 5"),
    "odd classes": (CLASSIFIER, config(id2label={"1": "a", "2": "b"}), "id2label"),
    "cut config": (CLASSIFIER, cut("config.json"), "config.json: not JSON"),
    "config is a list": (CLASSIFIER, lambda folder: (folder / "config.json").write_text("[]"), "config.json: not a JSON object"),
    "no config": (CLASSIFIER, lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "no weights": (CLASSIFIER, lambda folder: (folder / "model.safetensors").unlink(), "none of model.safetensors"),
    "cut safetensors": (CLASSIFIER, cut("model.safetensors"), "model.safetensors: not a readable safetensors"),
    "cut header": (CLASSIFIER, cut("model.safetensors", 0.001), "model.safetensors: not a readable safetensors"),
    "cut msgpack": (GOLDEN / "bert" / "sequence_classification_flax", cut("flax_model.msgpack"), "not a readable msgpack"),
    "pointer msgpack": (GOLDEN / "bert" / "sequence_classification_flax",
                        lambda folder: (folder / "flax_model.msgpack").write_bytes(b"\x01"), "not a readable msgpack"),
    "shard outside": (CLASSIFIER, index('{"weight_map": {"a": "../x.safetensors"}}'), r"\.\./x.safetensors.*outside"),
    "broken index": (CLASSIFIER, index('{"weight_map": 3}'), "not an index of shards"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_are_refused(case, tmp_path):
    source, spoil, words = REFUSED[case]
    folder = shutil.copytree(source, tmp_path / "folder")
    spoil(folder)
    with pytest.raises(InputError, match=words):
        pretrained.load(str(folder), "sequence_classification")


@pytest.mark.parametrize(("reference", "words"), [
    ("package:ecrec_jax/../tests", "leaves its package"),
    ("package:ecrec_jax//etc", "leaves its package"),
    ("package:no_such_package/model", "'no_such_package'.*not installed"),
    ("package:ecrec_jax/no/such", "no/such does not exist"),
    ("package:ecrec_jax/assets/banking77.parquet", "no config.json"),
    ("nobody/no-such-model", "nobody/no-such-model is no local folder, and the hub.*model.checkpoint=/path"),
    ("/no/such/folder", "/no/such/folder is no folder"),
    ("../no/such", r"\.\./no/such is no folder"),
])
def test_references_that_are_refused(reference, words):
    with pytest.raises(InputError, match=words) as error:
        pretrained.load(reference)
    assert "\n" not in str(error.value)


def test_a_pickle_is_never_opened(tmp_path):
    mark = tmp_path / "opened"
    bomb = f"cbuiltins\nopen\n(S'{mark}'\nS'w'\ntR.".encode()
    pickle.loads(bomb).close()
    assert mark.exists()   # it would go off
    mark.unlink()
    shutil.copy(CLASSIFIER / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(InputError, match="pytorch_model.bin.*convert it to safetensors"):
        pretrained.load(str(tmp_path))
    assert not mark.exists()
