"""Our encoder against stored outputs of the reference implementation (transformers, torch), layer by layer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ecrec_jax import convert, losses, net, pretrained, source
from ecrec_jax.data import pack, tokenise
from ecrec_jax.factored import Factored
from tests.conftest import GOLDEN

GIVEN = np.load(GOLDEN / "bert" / "golden.npz")
FOLDERS = {"safetensors": GOLDEN / "bert" / "sequence_classification", "msgpack": GOLDEN / "bert" / "sequence_classification_flax"}
REAL = GIVEN["attention_mask"].astype(bool)


def lay(ids, types, mask, slots, labels, packed):
    """The golden's padded examples as a batch: one a row, or packed into rows of 128 tokens."""
    examples = [{"tokens": ids[i][mask[i]], "type": types[i][mask[i]], "slot": np.array(slots[i], "i4"),
                 "label": np.array(labels[i], "i4"), "weight": np.ones(len(slots[i]), "f4")} for i in range(len(ids))]
    if not packed:
        rows = [[i] for i in range(len(examples))]
        shape = pack.Shape(len(rows), ids.shape[1], max(map(len, slots)))
    else:
        sizes, reads = np.array([len(e["tokens"]) for e in examples]), np.array(list(map(len, slots)))
        rows = pack.plan(sizes, reads, pack.Shape(1, 128, 99), None)
        assert max(map(len, rows)) > 1
        shape = pack.Shape(len(rows), 128, max(int(reads[r].sum()) for r in rows))
    order = [i for row in rows for i in row]
    return pack.lay([examples[i] for i in order], order, [r for r, row in enumerate(rows) for _ in row],
                    [k == 0 for row in rows for k in range(len(row))], shape)


def classifier_batch(packed):
    return lay(GIVEN["input_ids"], GIVEN["token_type_ids"], REAL, [[0]] * 6, [[x] for x in GIVEN["labels"]], packed)


def places(batch):
    """(example, row, column) of every real token, in the examples' order."""
    found = []
    for row, line in enumerate(batch["segment"]):
        order = batch["example"][row][batch["weight"][row] > 0]
        unique = list(dict.fromkeys(order.tolist()))
        found += [(unique[s - 1], row, np.flatnonzero(line == s)) for s in range(1, line.max() + 1)]
    return sorted(found, key=lambda x: x[0])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FOLDERS)
def test_every_layer_and_output(kind, packed, record_property):
    loaded, batch = pretrained.load(str(FOLDERS[kind]), "sequence_classification"), classifier_batch(packed)
    states = loaded.net.model.states(jax.tree.map(jnp.asarray, batch))
    logits = np.asarray(loaded(batch))
    pooled = np.asarray(loaded.net.model.pool(states[-1]))
    gap = 0.0
    for example, row, at in places(batch):
        for number, state in enumerate(states):
            gap = max(gap, np.abs(np.asarray(state)[row, at] - GIVEN[f"hidden_{number}"][example][: len(at)]).max())
        slot = np.flatnonzero((batch["example"][row] == example) & (batch["weight"][row] > 0))[0]
        gap = max(gap, np.abs(logits[row, slot] - GIVEN["logits"][example]).max(),
                  np.abs(pooled[row, at[0]] - GIVEN["pooled"][example]).max())
    print(f"activations, {kind}, packed={packed}: {gap:.2e}")
    assert len(states) == 3 and gap <= 1e-5


@pytest.mark.parametrize("packed", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("kind", FOLDERS)
def test_loss_and_gradient_norms(kind, packed):
    loaded, batch = pretrained.load(str(FOLDERS[kind]), "sequence_classification"), classifier_batch(packed)
    graph, parameters, _ = net.split(loaded.net)

    def loss(parameters):
        each = losses.cross_entropy(graph.net(parameters)(batch), batch["label"])
        return (each * batch["weight"]).sum() / batch["weight"].sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(parameters)
    norms = {convert.torch_of(convert.theirs(k, False), np.asarray(g))[0]: float(jnp.linalg.norm(g.reshape(-1)))
             for k, g in gradient.items()}
    wanted = {k.removeprefix("gradnorm/"): float(GIVEN[k]) for k in GIVEN.files if k.startswith("gradnorm/")}
    assert norms.keys() == wanted.keys()
    assert abs(float(value) - float(GIVEN["loss"])) <= 1e-5
    wrong = {k: (norms[k], wanted[k]) for k in wanted if abs(norms[k] - wanted[k]) > max(1e-7, 1e-4 * wanted[k])}
    print(f"loss {abs(float(value) - float(GIVEN['loss'])):.1e}, gradient norms, relative "
          f"{max(abs(norms[k] / wanted[k] - 1) for k in wanted if wanted[k] > 1e-6):.1e}")
    assert not wrong


@pytest.mark.parametrize("packed", [False, True])
def test_masked_lm(packed):
    chosen = GIVEN["mlm_selected"]
    slots = [np.flatnonzero(row) for row in chosen]
    batch = lay(GIVEN["mlm_input_ids"], GIVEN["token_type_ids"], REAL, slots,
                [GIVEN["input_ids"][i][s] for i, s in enumerate(slots)], packed)
    loaded = pretrained.load(str(GOLDEN / "bert" / "masked_lm"), "masked_lm")
    logits = np.asarray(loaded(batch))
    live = batch["weight"] > 0
    order = np.argsort(batch["example"][live], kind="stable")
    gap = np.abs(logits[live][order] - GIVEN["mlm_logits_selected"]).max()
    outputs = loaded.net({k: jnp.asarray(x) for k, x in batch.items()})
    assert isinstance(outputs, Factored)
    loss = float(np.asarray(losses.factored_cross_entropy(outputs, batch["label"]))[live].mean())
    print(f"masked-LM logits, packed={packed}: {gap:.2e}, loss {abs(loss - float(GIVEN['mlm_loss'])):.1e}")
    assert gap <= 1e-5 and abs(loss - float(GIVEN["mlm_loss"])) <= 1e-5


def test_tokenizer_ids():
    lines = [line.split("\t") for line in (GOLDEN / "bert" / "texts.tsv").read_text(encoding="utf-8").splitlines()]
    ragged = tokenise.tokenise(str(FOLDERS["safetensors"]), [x[0] for x in lines], [x[1] for x in lines], 56)
    for i in range(len(lines)):
        assert ragged[i][0].tolist() == GIVEN["input_ids"][i][REAL[i]].tolist()
        assert ragged[i][1].tolist() == GIVEN["token_type_ids"][i][REAL[i]].tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_minilm(minilm, packed):
    given = np.load(GOLDEN / "minilm" / "golden.npz")
    mask = given["attention_mask"].astype(bool)
    texts = (GOLDEN / "minilm" / "texts.txt").read_text(encoding="utf-8").splitlines()
    folder = str(source.locate(minilm))
    ragged = tokenise.tokenise(folder, texts, None, 512)
    assert all(ragged[i][0].tolist() == given["input_ids"][i][mask[i]].tolist() for i in range(len(texts)))
    batch = lay(given["input_ids"], np.zeros_like(given["input_ids"]), mask, [[0]] * 6, [[0]] * 6, packed)
    hidden = np.asarray(pretrained.load(minilm)(batch))
    worst, cosine = 0.0, 1.0
    for example, row, at in places(batch):
        mean = hidden[row, at].mean(0)
        vector = mean / np.linalg.norm(mean)
        cosine = min(cosine, float(vector @ given["embedding"][example]))
        worst = max(worst, *(np.abs(a - b[example]).max() for a, b in (
            (hidden[row, at[0]], given["hidden_first"]), (mean, given["hidden_mean"]), (vector, given["embedding"]))))
    print(f"MiniLM, packed={packed}: cosine {cosine:.7f}, difference {worst:.1e}")
    assert cosine >= 0.999999 and worst <= 2e-5


def test_config_of_the_golden_is_read():
    config = json.loads((FOLDERS["safetensors"] / "config.json").read_text())
    facts = convert.facts_of(config, "here")
    assert (facts["width"], facts["depth"], facts["heads"], facts["positions"]) == (32, 2, 4, 64)
