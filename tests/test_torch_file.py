"""pytorch_model.bin without torch: what torch 2.9 wrote is read exactly, whatever else a pickle holds is refused unopened."""

import json
import pickle
import shutil
import zipfile

import ml_dtypes
import numpy as np
import pytest

from ecrec_jax import net, pretrained, torch_file
from ecrec_jax.types import InputError
from tests.conftest import GOLDEN

WHOLE = np.arange(24, dtype="f4").reshape(4, 6)
EXPECTED = {"whole": WHOLE, "transposed": WHOLE.T, "part": WHOLE[1:3, ::2], "half": WHOLE.astype("f2"),
            "bf": WHOLE.astype(ml_dtypes.bfloat16), "long": np.arange(5), "scalar": np.array(2.5, "f4"),
            "empty": np.zeros((0, 3), "f4"), "parameter": WHOLE[:2], "truth": np.array([True, False])}


def test_tensors_of_every_kind():
    found = torch_file.read(GOLDEN / "torch" / "tensors.bin")
    assert list(found) == list(EXPECTED)
    for name, x in EXPECTED.items():
        assert found[name].dtype == x.dtype and found[name].shape == x.shape and (found[name] == x).all(), name


def test_a_state_dict():
    found = torch_file.read(GOLDEN / "torch" / "state_dict.bin")
    assert found["weight"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["bias"].tolist() == [1, 1]


def test_a_model_is_that_of_safetensors(tmp_path):
    """As one file and as two shards."""
    source = GOLDEN / "bert" / "sequence_classification"
    wanted = net.split(pretrained.load(str(source), "sequence_classification").net)[1]
    kept = GOLDEN / "bert" / "sequence_classification_bin" / "pytorch_model.bin"
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00001.bin"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(source / "config.json", folder)
        shutil.copy(kept, folder / name)
        if name != "pytorch_model.bin":
            index = {"weight_map": dict.fromkeys(torch_file.read(kept), name)}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        found = net.split(pretrained.load(str(folder), "sequence_classification").net)[1]
        assert set(found) == set(wanted) and all((found[k] == wanted[k]).all() for k in wanted)


def archive(path, data, storages=(WHOLE,), compression=zipfile.ZIP_STORED):
    """A file as torch.save lays it out around a pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        for i, x in enumerate(storages):
            file.writestr(f"archive/data/{i}", x.tobytes())
    return path


def one_tensor(offset=0, size=(2, 3), stride=(3, 1), key="0", count=6, storage="FloatStorage", rebuild="_rebuild_tensor_v2"):
    """The pickle of {"x": a tensor}, written by hand."""
    numbers = lambda xs: "(" + "".join(f"I{x}\n" for x in xs) + "t"  # noqa: E731
    pid = f"(S'storage'\nctorch\n{storage}\nS'{key}'\nS'cpu'\nI{count}\ntQ"
    return f"(S'x'\nctorch._utils\n{rebuild}\n({pid}I{offset}\n{numbers(size)}{numbers(stride)}I00\n(dtRd.".encode()


def test_a_tensor_by_hand(tmp_path):
    """The forgeries below differ from this one in what they are named for alone."""
    path = archive(tmp_path / "a.bin", one_tensor(), [np.arange(6, dtype="f4")])
    assert torch_file.read(path)["x"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("name,given", {
    "past the end": {"offset": 1}, "a negative stride": {"stride": (-3, 1)}, "a negative offset": {"offset": -1},
    "repeated without end": {"size": (1 << 20, 1 << 20), "stride": (0, 0)}, "more numbers than bytes": {"count": 25},
    "another member": {"key": "../data.pkl"}, "no member": {"key": "7"}, "an unknown storage": {"storage": "QInt8Storage"},
    "another function": {"rebuild": "_rebuild_qtensor"}, "no pairs": {"size": (6,), "stride": (1, 1)}}.items())
def test_forged_tensors(tmp_path, name, given):
    with pytest.raises(InputError, match="can't be read safely"):
        torch_file.read(archive(tmp_path / "a.bin", one_tensor(**given)))


class Call:
    """Pickles to a call."""

    def __init__(self, function, *words):
        self.function, self.words = function, words

    def __reduce__(self):
        return self.function, self.words


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("function", [open, eval, getattr, np.zeros, np.frombuffer])
def test_nothing_is_called(tmp_path, protocol, function):
    """A pickle that opens a file when loaded, proved live, is refused with the name of what it asks for."""
    mark = tmp_path / "opened"
    live = pickle.dumps({"x": Call(open, str(mark), "w")}, protocol)
    pickle.loads(live)["x"].close()
    assert mark.exists()
    mark.unlink()
    with pytest.raises(InputError, match="open, which no tensor needs"):
        torch_file.read(archive(tmp_path / "a.bin", live))
    with pytest.raises(InputError, match="which no tensor needs"):
        torch_file.read(archive(tmp_path / "b.bin", pickle.dumps({"x": Call(function, "1")}, protocol)))
    assert not mark.exists()


@pytest.mark.parametrize("made,words", [
    (lambda p: archive(p, one_tensor(), compression=zipfile.ZIP_DEFLATED), "compressed"),
    (lambda p: archive(p, pickle.dumps([1, 2])), "other than named tensors"),
    (lambda p: archive(p, pickle.dumps({"x": 3})), "other than named tensors"),
    (lambda p: archive(p, one_tensor()[:-9]), "can't be read safely"),
    (lambda p: p.write_bytes(b"nothing"), "not a zip"),
    (lambda p: shutil.copy(GOLDEN / "torch" / "old_format.bin", p), "not a zip"),
])
def test_other_files(tmp_path, made, words):
    made(tmp_path / "a.bin")
    with pytest.raises(InputError, match=words):
        torch_file.read(tmp_path / "a.bin")
