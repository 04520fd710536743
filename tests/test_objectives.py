"""Pretraining objectives: which tokens are hidden together, what a causal model sees, what two views of a text are."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecrec_jax import build, evaluate, pretrained, section, source
from ecrec_jax.data import tokenise, vocabulary
from ecrec_jax.types import Example, Facts, InputError, Noise
from tests import world
from tests.conftest import GOLDEN
from tests.test_commands import TINY, call

TOKENIZER = str(build.ASSETS / "bert_uncased")
FACTS = Facts(vocabulary=60, mask_id=7, special_ids=(0, 1, 2, 3, 7))
ORDINARY = np.setdiff1d(np.arange(60), FACTS.special_ids)


def masked_lm(**changes):
    return section.make(world.section_of("task", "masked_lm") | changes, "task", FACTS)


def text(rng, words, pieces=4):
    """[CLS], words of 1 to `pieces` tokens, [SEP]."""
    word = np.repeat(np.arange(words), rng.integers(1, pieces + 1, words))
    return Example(np.concatenate([[2], rng.choice(ORDINARY, len(word)), [3]]).astype("i4"), np.zeros(len(word) + 2, "i4"), 0, 0,
                   np.concatenate([[-1], word, [-1]]).astype("i4"))


# ---- masked LM
@pytest.mark.parametrize("unit", ["word", "span"])
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_words_are_hidden_whole_and_their_tokens_counted_exactly(unit, rate):
    """At most one word is cut, and only where every word that stayed whole was longer than what was left."""
    task, rng, cuts = masked_lm(unit=unit, rate=rate), np.random.default_rng(0), 0
    for words in (1, 2, 3, *range(5, 60)):
        example = text(rng, words)
        found = task.prepare(example, np.random.default_rng(words))
        n = len(example.tokens) - 2
        assert len(found["slot"]) == round(rate * n) == task.size(example)[1] and (np.diff(found["slot"]) > 0).all()
        assert (found["label"] == example.tokens[found["slot"]]).all() and (example.word[found["slot"]] >= 0).all()
        size = np.bincount(example.word[1:-1])
        hidden = np.bincount(example.word[found["slot"]], minlength=words)
        part = (hidden > 0) & (hidden < size)
        assert part.sum() <= 1 and not ((hidden == 0) & (size <= hidden[part].sum())).any()
        cuts += part.sum()
    assert 0 < cuts < 20


def test_span_lengths_are_geometric_cut_at_ten():
    """Mean Σ l · .2 · .8^(l − 1) / Σ .2 · .8^(l − 1) over l = 1..10 = (1 − 3 · .8^10) / .2 / (1 − .8^10) = 3.797."""
    task, rng, lengths = masked_lm(unit="span", rate=0.01), np.random.default_rng(0), []
    example = text(rng, 20_000, pieces=1)
    for seed in range(60):
        slot, start = task.hidden(example, np.random.default_rng(seed))
        lengths += np.unique(start, return_counts=True)[1].tolist()
        assert (np.diff(slot)[np.diff(start) == 0] == 1).all()   # a span is one stretch of the text
    share = np.bincount(lengths, minlength=11)[1:] / len(lengths)
    assert len(lengths) > 2500 and np.mean(lengths) == pytest.approx((1 - 3 * 0.8**10) / 0.2 / (1 - 0.8**10), abs=0.2)
    assert max(lengths) == 10 and share[1] / share[0] == pytest.approx(0.8, abs=0.1)


def test_a_span_shares_one_fate_and_a_word_does_not():
    example, fates = text(np.random.default_rng(0), 400, pieces=3), {}
    for unit in ("word", "span"):
        task = masked_lm(unit=unit, masked=0.5, random=0.0, rate=0.3)
        slot, start = task.hidden(example, np.random.default_rng(1))
        masked = task.prepare(example, np.random.default_rng(1))["tokens"][slot] == FACTS.mask_id
        fates[unit] = [set(masked[start == one]) for one in np.unique(start)]
        assert 0.3 < masked.mean() < 0.7
    assert max(map(len, fates["span"])) == 1 < max(map(len, fates["word"]))


def test_all_mask():
    example = text(np.random.default_rng(0), 200)
    found = masked_lm(unit="word", masked=1.0, random=0.0).prepare(example, np.random.default_rng(0))
    assert (found["tokens"][found["slot"]] == FACTS.mask_id).all()


def test_words_are_asked_for_where_there_are_none():
    example = text(np.random.default_rng(0), 9)._replace(word=None)
    assert masked_lm().prepare(example, np.random.default_rng(0))["slot"].size
    with pytest.raises(InputError, match=r"task\.unit is span, but this data does not know words"):
        masked_lm(unit="span").prepare(example, np.random.default_rng(0))


def test_words_are_wordpieces_grouped():
    """A piece continues a word if and only if it is written with ##."""
    texts = ["Unaffable overalls aren't see-through, size 12petite!", "", "jeggings jeggings"]
    ragged, tokens = tokenise.tokenise(TOKENIZER, texts, texts[::-1], 40), tokenise.load(TOKENIZER)
    for i in range(3):
        example = ragged.example(i, 0)
        pieces, ordinary = tokens.convert_ids_to_tokens(example.tokens), example.word >= 0
        assert ordinary.tolist() == [piece not in ("[CLS]", "[SEP]") for piece in pieces]
        same = [b == a >= 0 for a, b in zip(example.word, example.word[1:], strict=False)]
        assert same == [piece.startswith("##") for piece in pieces[1:]] and (sum(same) > 3) == (i != 1)
        assert (np.diff(example.word[ordinary]) >= 0).all() and example.word.dtype == np.int32


def test_words_of_a_segmenter(monkeypatch, tmp_path):
    """Characters of one Chinese word belong together, and pieces of a Latin word whatever the segmenter says."""
    monkeypatch.setenv("ECREC_CACHE", str(tmp_path))
    cut = {"我喜欢 jeggings。": ["我", "喜欢", " ", "jegg", "ings", "。"]}
    monkeypatch.setitem(sys.modules, "jieba", types.SimpleNamespace(lcut=cut.__getitem__))
    pieces = tokenise.load(TOKENIZER).tokenize("jeggings")
    assert len(pieces) > 1
    found = {key: tokenise.tokenise(TOKENIZER, list(cut), None, 20, key).word.tolist() for key in (None, "jieba")}
    assert found[None] == [-1, 0, 1, 2, *[3] * len(pieces), 4, -1]
    assert found["jieba"] == [-1, 0, 1, 1, *[2] * len(pieces), 3, -1]
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(InputError, match=r"data\.segmenter: jieba is not installed"):
        tokenise.tokenise(TOKENIZER, ["新"], None, 20, "jieba")


# ---- causal LM
def losses_of(made, batch):
    """f32[B,S] as a function of an offset to the embeddings."""
    given = {key: jnp.asarray(x) for key, x in batch.items()}
    net = made.graph.net(made.parameters)
    return lambda offset: made.task.loss(net(given | {"offset": offset}, Noise(jnp.uint32(3), given["row"])),
                                         given | {"offset": offset}, lambda x: x)


@pytest.mark.parametrize("causal", [True, False])
def test_no_gradient_from_the_future(causal):
    """The loss of a slot depends on its own token and every earlier one of its segment, and on no other."""
    made = world.parts("causal_lm", f"model.causal={causal}")
    batch = {key: x[:1] for key, x in next(world.feed(made.task, "causal_lm").batches(0, 0)).items()}
    moved = jax.jit(jax.jacrev(losses_of(made, batch)))(jnp.zeros((1, world.LENGTH, 32)))[0, :, 0]       # [S,L,D]
    slot, segment = batch["slot"][0], batch["segment"][0]
    real = batch["weight"][0] > 0
    at, reads = np.arange(world.LENGTH), np.asarray(jnp.abs(moved).max(-1))[real] > 0
    same = segment[slot[real]][:, None] == segment
    assert segment.max() > 1 and (reads == (same & (at <= slot[real][:, None]) if causal else same)).all()


def test_labels_are_the_next_tokens():
    task = section.make(world.section_of("task", "causal_lm"), "task", FACTS)
    example = text(np.random.default_rng(0), 5)
    found = task.prepare(example, np.random.default_rng(0))
    assert found["label"].tolist() == example.tokens[1:].tolist() and found["label"][-1] == 3
    assert found["slot"].tolist() == list(range(len(example.tokens) - 1)) and len(found["slot"]) == task.size(example)[1]


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm"])
def test_evaluation_of_packed_texts_is_that_of_single_ones(task):
    made, found = world.parts(task), []
    trained, frozen = made.peft.split(made.parameters)
    evaluator = evaluate.Evaluator(made, made.strategy.place(frozen))
    for alone in (False, True):
        feed = world.feed(made.task, task, rows=8, alone=alone)
        found.append((feed.count(None, 0), *evaluator.measure(made.strategy.place(trained), feed)))
    assert found[0][0] < found[1][0] and np.abs(found[0][2]["loss"] - found[1][2]["loss"]).max() < 1e-5
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5) and set(found[0][1]) == {"loss", "perplexity", "accuracy"}
    assert found[0][1]["perplexity"] == pytest.approx(np.exp(found[0][1]["loss"]), rel=1e-5)


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A causally pretrained run."""
    folder = tmp_path_factory.mktemp("causal") / "run"
    assert call("train", "experiment=pretrain_causal", "debug=fast", "tracker=[jsonl]", f"run_dir={folder}", *TINY) == 0
    return folder


@pytest.mark.slow
def test_a_causal_run_stays_causal(causal, tmp_path, capsys):
    """As a checkpoint, as a net, and as an export, which says that it is a decoder and is not read back as an encoder."""
    net = pretrained.load(str(causal), "causal_lm")
    tokens = np.array([[101, 2307, 4377, 102]])
    batch = {"tokens": tokens, "segment": 0 * tokens + 1, "position": np.arange(4)[None], "type": 0 * tokens}
    batch["slot"] = batch["position"]
    before, after = (np.asarray(net(batch | {"tokens": x})) for x in (tokens, np.where(np.arange(4) == 3, 4377, tokens)))
    assert np.array_equal(before[:, :3], after[:, :3]) and not np.array_equal(before[:, 3], after[:, 3])
    for head in ("masked_lm", "sequence_classification"):
        with pytest.raises(InputError, match="its attention is causal"):
            pretrained.load(str(causal), head)
    assert call("export", f"run_dir={causal}", f"out={tmp_path / 'out'}") == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["is_decoder"] is True and config["architectures"] == ["BertLMHeadModel"]
    with pytest.raises(InputError, match="is_decoder is true"):
        pretrained.load(str(tmp_path / "out"))
    with pytest.raises(InputError, match="is not causal, so it can't have the head 'causal_lm'"):
        pretrained.load(str(GOLDEN / "bert" / "masked_lm"), "causal_lm")
    words = ["experiment=sentiment", "model=bert", f"model.checkpoint={causal}", "debug=fast", "tracker=[jsonl]",
             "data.max_length=32", f"run_dir={tmp_path / 'tuned'}"]
    capsys.readouterr()
    assert call("train", *words) == 2 and "head.pooling is cls, but the first token of a causal" in capsys.readouterr().err
    assert call("train", *words, "head.pooling=mean") == 0 and source.load_facts(tmp_path / "tuned").causal


def test_next_tokens_need_a_causal_model(tmp_path, capsys):
    assert call("train", "experiment=pretrain_causal", "model.causal=null", f"run_dir={tmp_path}") == 2
    assert "set model.causal=true" in capsys.readouterr().err


# ---- contrastive
def views_of(noise):
    """(task, batch, unit vectors, weights) of single texts read twice."""
    made = world.parts("simcse")
    batch = {key: jnp.asarray(x) for key, x in next(world.feed(made.task, "simcse").batches(0, 0)).items()}
    vector = made.graph.net(made.parameters)(batch, Noise(jnp.uint32(3), batch["row"]) if noise else None)
    return made.task, batch, vector, np.asarray(batch["weight"]) > 0


def test_two_views_differ_by_dropout_alone():
    """Both stand in one row with the same tokens and positions; with dropout they are two vectors, without it one."""
    _, batch, noisy, real = views_of(True)
    _, _, still, _ = views_of(False)
    batch = {key: np.asarray(x) for key, x in batch.items()}
    label = batch["label"][real].reshape(-1, 2)
    assert len(label) > 9 and (label[:, 0] == label[:, 1]).all() and len(set(label[:, 0])) == len(label)
    for row, segment in enumerate(batch["segment"]):
        for first in range(1, segment.max(), 2):
            for key in ("tokens", "position", "type"):
                assert (batch[key][row][segment == first] == batch[key][row][segment == first + 1]).all()
    gap = [np.abs(np.diff(np.asarray(x)[real].reshape(len(label), 2, -1), axis=1)).max(-1) for x in (noisy, still)]
    assert gap[0].min() > 1e-2 and gap[1].max() < 1e-5


def test_simcse_is_its_equation():
    """Gao et al. 2021, eq. 1, in float64, once for each view: −log exp(h_i·h_i⁺/τ) / Σ_j exp(h_i·h_j⁺/τ), τ = .05."""
    task, batch, vector, real = views_of(True)
    found = np.asarray(task.loss(vector, batch, lambda x: x))[real].reshape(-1, 2)
    one, other = np.asarray(vector, "f8")[real].reshape(-1, 2, vector.shape[-1]).swapaxes(0, 1)
    for side, (query, key) in enumerate(((one, other), (other, one))):
        score = np.exp(query @ key.T / 0.05)
        np.testing.assert_allclose(found[:, side], -np.log(np.diag(score) / score.sum(1)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_masks_need_dropout(tmp_path, capsys):
    """Else they are one view."""
    words = ["experiment=pretrain_contrastive", "steps=1", "data.limit=40", "tracker=[jsonl]", *TINY]
    off = ["model.dropout=0.0", "model.attention_dropout=0.0"]
    assert call("train", *words, *off, f"run_dir={tmp_path / 'run'}") == 2
    assert "of which the model has none: set model.dropout=0.1" in capsys.readouterr().err


def test_a_pair_needs_a_second_text(tmp_path, capsys):
    words = ["experiment=pretrain_contrastive", "debug=fast", "tracker=[jsonl]", f"run_dir={tmp_path / 'run'}", *TINY]
    assert call("train", *words, "task.views=pair") == 2 and "set data.text_pair_column" in capsys.readouterr().err
    assert call("train", *words) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test/uniformity"] < 0 and "test/alignment" not in summary and "test/mrr" not in summary


# ---- vocabulary
def write_texts(path):
    """English and Chinese reviews, with what cleaning takes out."""
    rng = np.random.default_rng(0)
    words = ["dress", "dresses", "Soft", "softer", "softest", "fits", "fitting", "café", "连衣裙", "很软", "<b>", "&amp;"]
    rows = [{"text": " ".join(rng.choice(words, 8)) + f" no. {i}"} for i in range(300)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def test_a_vocabulary_is_learnt_and_pretrained_with(tmp_path, capsys):
    write_texts(tmp_path / "my.jsonl")
    words, out = [f"data.path={tmp_path / 'my.jsonl'}", "size=120"], tmp_path / "new" / "words"
    assert call("vocabulary", *words, f"out={out}") == 0
    pieces = (out / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert tuple(pieces[:5]) == vocabulary.SPECIAL and len(set(pieces)) == len(pieces) <= 120
    assert {"soft", "dress", "连", "裙", "cafe", "&"} <= set(pieces) and not {"连衣", "é", "<", "Soft"} & set(pieces)
    assert [p.name for p in out.parent.iterdir()] == ["words"]
    tokens = tokenise.load(str(out))
    assert tokens.tokenize("Soft 连衣裙") == ["soft", "连", "衣", "裙"]
    assert len(tokens) == len(pieces) == tokenise.facts(str(out))["vocabulary"]
    assert call("vocabulary", *words, f"out={out}") == 2 and "is there already" in capsys.readouterr().err
    assert call("vocabulary", words[0], "size=20", f"out={tmp_path / 'small'}") == 2
    assert "size is 20, but the characters" in capsys.readouterr().err and not list(tmp_path.glob("*small*"))
    run = tmp_path / "run"
    assert call("train", "experiment=pretrain", "data=file", words[0], "data.target=none", f"data.tokenizer={out}",
                "task.unit=span", "debug=fast", "tracker=[jsonl]", f"run_dir={run}", *TINY) == 0
    assert source.load_facts(run).vocabulary == len(pieces) and (run / "tokenizer" / "vocab.txt").is_file()
    assert json.loads((run / "summary.json").read_text())["steps"] == 2


def test_a_vocabulary_is_the_same_every_time():
    """Over ties too, of which small counts have many; the library alone gives another one each time."""
    rng = np.random.default_rng(0)
    texts = [" ".join("".join(rng.choice(list("abcdefgh裙"), rng.integers(2, 9))) for _ in range(9)) for _ in range(60)]
    first = vocabulary.learn(texts, 150, True)
    assert len(first) == 150 and all(vocabulary.learn(texts, 150, True) == first for _ in range(5))
    assert {piece for piece in first if len(piece) == 1} == set("abcdefgh裙")
