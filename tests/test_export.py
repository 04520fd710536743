"""Exports come back bit for bit, with config, label names and tokenizer; a run of ours is a checkpoint too."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import yaml

from ecrec_jax import build, convert, pretrained, source
from ecrec_jax.checkpoint import Checkpoints
from ecrec_jax.data import tokenise
from ecrec_jax.types import Facts, InputError, State
from experiments import export
from tests.conftest import GOLDEN
from tests.test_pretrained import BATCH, CLASSIFIER, MASKED, REAL, assert_same, file_of, parameters

HEADS = {None: CLASSIFIER, "sequence_classification": CLASSIFIER, "masked_lm": MASKED}


@pytest.mark.parametrize("format", ["hf", "hf_flax"])
@pytest.mark.parametrize("head", HEADS)
def test_exports_come_back(head, format, tmp_path):
    source, out = HEADS[head], tmp_path / "new" / "out"
    loaded = pretrained.load(str(source), head)
    assert pretrained.save(loaded, out, format) == []
    assert sorted(x.name for x in out.parent.iterdir()) == ["out"]
    again = pretrained.load(str(out), head)
    assert_same(parameters(loaded), parameters(again))
    assert again.report == {"new": [], "unread": []}
    found = json.loads((out / "config.json").read_text())
    name = {None: "BertModel", "sequence_classification": "BertForSequenceClassification", "masked_lm": "BertForMaskedLM"}[head]
    assert found["architectures"] == [name] and ("id2label" in found) == (head == "sequence_classification")
    given = json.loads((source / "config.json").read_text())
    assert all(found[key] == given[key] for key in set(convert.CONFIG.values()) | (found.keys() & {"id2label", "label2id"}))
    texts = ["A nice, soft dress.", "unaffable 连衣裙"]
    assert all(tokenise.load(str(out))(x)["input_ids"] == tokenise.load(str(source))(x)["input_ids"] for x in texts)
    if format == "hf":
        bare = {name.removeprefix("bert."): x for name, x in file_of(source).items() if not name.startswith("classifier.")}
        wanted = bare if head is None else file_of(source)
        assert_same(wanted, file_of(out))


@pytest.mark.parametrize("format", ["hf", "hf_flax"])
def test_half_precision_halves_the_file_and_keeps_eight_bits(format, tmp_path):
    loaded = pretrained.load(str(MASKED), "masked_lm")
    whole = {name: np.asarray(x) for name, x in parameters(loaded).items()}
    half = {name: x.astype(ml_dtypes.bfloat16) for name, x in whole.items()}
    for kind, arrays in (("whole", whole), ("half", half)):
        pretrained.write(arrays, loaded.facts, loaded.folder, tmp_path / kind, format)
    weights = "model.safetensors" if format == "hf" else "flax_model.msgpack"
    assert (tmp_path / "half" / weights).stat().st_size < 0.55 * (tmp_path / "whole" / weights).stat().st_size
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    again = parameters(pretrained.load(str(tmp_path / "half"), "masked_lm"))
    for name, x in whole.items():
        assert again[name].dtype == np.float32 and (np.abs(again[name] - x) <= np.abs(x) * 2.0**-8).all()


def test_what_scores_are_made_of_is_said():
    """transformers' pipelines take a sigmoid of one score and a softmax of several, unless they are told."""
    told = [convert.config_of(Facts(labels=("a", "b")), "BertForSequenceClassification", kind).get("problem_type")
            for kind in (*export.PROBLEMS.values(), None)]
    assert told == ["regression", "multi_label_classification", "single_label_classification", None]


def test_save_refuses(tmp_path):
    loaded = pretrained.load(str(CLASSIFIER))
    (tmp_path / "mine").mkdir()
    pretrained.save(loaded, tmp_path / "mine")   # empty: fine
    before = sorted((x.name, x.stat().st_mtime_ns) for x in (tmp_path / "mine").iterdir())
    with pytest.raises(InputError, match="mine is there already"):
        pretrained.save(loaded, tmp_path / "mine")
    assert before == sorted((x.name, x.stat().st_mtime_ns) for x in (tmp_path / "mine").iterdir())
    with pytest.raises(InputError, match="'onnx'.*hf_flax"):
        pretrained.save(loaded, tmp_path / "other", "onnx")


def test_only_a_bert_is_written(tmp_path):
    """A SASRec has heads too."""
    with pytest.raises(InputError, match="the model is no BERT, so no transformers class has a place for it"):
        pretrained.write({"model.items.embedding": np.zeros((3, 4), "f4")}, Facts(heads=2), tmp_path, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()


def test_a_causal_run_is_exported_as_the_decoder_that_torch_takes_it_for(tmp_path):
    """Logits at the fourth and the last token of padded texts, and in the files nothing but `is_decoder` and the class."""
    given, golden, run = source.read(str(MASKED)), np.load(GOLDEN / "bert" / "causal.npz"), tmp_path / "run"
    shutil.copytree(MASKED, run / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
    (run / "config.yaml").write_text(yaml.safe_dump({"peft": {"_target_": "ecrec_jax.peft.full.Full"}, "best": {"mode": "min"},
                                                     "head": {"_target_": "ecrec_jax.head.tokens.Tokens"}}))
    source.save_facts(Facts(**given.facts | {"causal": True}), run)
    with Checkpoints(run / "checkpoints", "min") as kept:
        kept.save(State(given.tensors, {"count": np.zeros(1)}, np.int32(1), np.uint32(0)), {}, 1.0)
    loaded = pretrained.load(str(run), "causal_lm")
    gap = np.abs(np.asarray(loaded(BATCH | {"slot": golden["slot"]})) - golden["logits"]).max()
    print(f"causal logits: {gap:.1e}")
    assert gap <= 1e-5 < golden["logits"].std()
    assert pretrained.save(loaded, tmp_path / "out") == []
    before, after = (json.loads((path / "config.json").read_text()) for path in (MASKED, tmp_path / "out"))
    assert (after["architectures"], after["is_decoder"]) == (["BertLMHeadModel"], True)
    assert all(after[key] == before[key] for key in convert.CONFIG.values())
    assert_same(file_of(MASKED), file_of(tmp_path / "out"))


def test_a_run_is_a_checkpoint(tmp_path):
    """Its best weights, its way of pooling, its labels and its tokenizer."""
    given = source.read(str(CLASSIFIER))
    weights = {name: x for name, x in given.tensors.items() if "pooler" not in name}
    run = tmp_path / "run"
    shutil.copytree(CLASSIFIER, run / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
    (run / "config.yaml").write_text(yaml.safe_dump({
        "peft": {"_target_": "ecrec_jax.peft.full.Full"}, "best": {"mode": "max"}, "head": {"pooling": "mean"}}))
    source.save_facts(Facts(**given.facts, labels=("bad", "fair", "good")), run)
    with Checkpoints(run / "checkpoints", "max") as kept:
        for step, value in ((1, 0.9), (2, 0.1)):
            scaled = {name: x * (1 if step == 1 else 2) for name, x in weights.items()}
            kept.save(State(scaled, {"count": np.zeros(1)}, np.int32(step), np.uint32(0)), {}, value)
    loaded = pretrained.load(str(run), "sequence_classification")
    assert_same(parameters(loaded), weights)
    assert loaded.report == {"new": [], "unread": []} and loaded.facts.labels == ("bad", "fair", "good")
    hidden = np.asarray(pretrained.load(str(CLASSIFIER))(BATCH))
    mean = (hidden * REAL[..., None]).sum(1) / REAL.sum(1, keepdims=True)
    wanted = mean @ weights["head.classifier.kernel"] + weights["head.classifier.bias"]
    assert np.abs(np.asarray(loaded(BATCH))[:, 0] - wanted).max() <= 1e-5
    assert pretrained.save(loaded, tmp_path / "out") == ["head.classifier.bias", "head.classifier.kernel"]
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_the_shipped_encoder(tmp_path):
    """Both formats hold the same weights in half precision, and it fills a blank of its domain."""
    folder = build.ASSETS / "shop_encoder"
    loaded = pretrained.load("package:ecrec_jax/assets/shop_encoder", "masked_lm")
    assert loaded.report == {"new": [], "unread": []}
    flax = tmp_path / "flax"
    shutil.copytree(folder, flax, ignore=shutil.ignore_patterns("*.safetensors"))
    assert_same(parameters(loaded), parameters(pretrained.load(str(flax), "masked_lm")))
    assert all((folder / name).stat().st_size < 12e6 for name in ("model.safetensors", "flax_model.msgpack"))
    words = tokenise.load(str(folder))
    ids = np.array([words("This dress is very [MASK], and it fits perfectly.")["input_ids"]])
    at = ids[0].tolist().index(words.mask_token_id)
    logits = loaded({"tokens": ids, "segment": 0 * ids + 1, "position": np.arange(ids.shape[1])[None], "type": 0 * ids,
                     "slot": np.array([[at]])})
    best = words.convert_ids_to_tokens(np.asarray(logits)[0, 0].argsort()[::-1][:20].tolist())
    print(best)
    assert {"soft", "flattering", "comfortable", "cute"} & set(best)
