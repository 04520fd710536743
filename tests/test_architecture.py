"""The plan of the house, read from the sources: who imports whom, who may touch what, and that every yaml names what is there."""

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from ecrec_jax import section
from experiments import launch
from tests.world import composed, names, section_of

ROOT = Path(launch.CONF).parent
PURE = ("matmul", "norm", "weights", "block", "lookup", "flash_kernels", "flash", "attention", "products", "factored", "negatives",
        "losses", "metrics", "ranking", "model", "head", "task", "peft", "gradient", "optimizer")
LAYERS = [("types",), PURE, ("net", "step"),
          ("writing", "section", "data", "augment", "processes", "mesh", "strategy", "tracker", "checkpoint", "source",
           "pretrained", "convert", "torch_file", "text_encoder", "build", "evaluate", "meter", "nan", "profile", "loop",
           "replicas"), ("use",),
          ("experiments",)]
INSIDE = {"model": {"attention", "block", "lookup", "types", "weights"}, "head": {"block", "factored", "types"},
          "task": {"block", "factored", "lookup", "losses", "metrics", "negatives", "ranking", "types"}}
ALONE = ("augment", "model", "head", "task", "peft", "gradient", "optimizer", "strategy", "tracker")
NOUNS = ("data", *ALONE)
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
           for folder in ("ecrec_jax", "experiments") for path in sorted((ROOT / folder).rglob("*.py"))}
CODE = [name for name, text in SOURCES.items() if text.strip()]
TREES = {name: ast.parse(SOURCES[name]) for name in CODE}
LOADED = {x.attr for tree in TREES.values() for x in ast.walk(tree)   # read of any object but `self`, anywhere
          if isinstance(x, ast.Attribute) and isinstance(x.ctx, ast.Load) and ast.unparse(x.value) != "self"}
OWN = {"model": {"checkpoint", "new_head", "dtype"},   # keys of every option of a noun that its constructor doesn't have
       "strategy": {"coordinator", "processes", "process_id"}}
NEEDED = {
    "model": "bert bert_tiny bert_mini bert_small bert_medium bert_base minilm bert_shop shop bilstm "
             "sasrec sasrec_clean sasrec_s3rec esasrec bert4rec gru4rec logistic fm deepfm dcnv2 two_tower",
    "head": "classify regress tokens embed items s3rec",
    "task": "classification regression masked_lm causal_lm contrastive simcse next_item masked_item s3rec", "peft": "full bitfit",
    "gradient": "plain accumulate", "optimizer": "adamw", "strategy": "jit pmap fsdp", "tracker": "console jsonl wandb tensorboard",
    "augment": "deletion swap crop synonym ppdb cilin masked_lm back_translation",
    "experiment": "sentiment department rating_regression intent pretrain pretrain_causal pretrain_contrastive "
                  "article classify regress click sst2 sst5 trec financial_sentiment chinese_sentiment rating next_item "
                  "pretrain_s3rec",
}


def part(module):
    """The part of the house that a dotted name lies in; None outside of it."""
    first, _, rest = module.partition(".")
    if first == "experiments":
        return first
    return (rest.split(".")[0] or "ecrec_jax") if first == "ecrec_jax" else None


def module_of(name):
    """The dotted name of a file."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(tree):
    """Every module that a file imports, wherever the import stands; `from package import module` counts as the module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if is_module(name) else node.module for name in inner]
    return found


def is_module(name):
    """Whether a dotted name of ours is a file or a folder."""
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def layer(name):
    """The number of a part's layer."""
    return next(i for i, parts in enumerate(LAYERS) if name in parts)


def functions(tree):
    """Every function of a file, methods and inner ones included."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def classes(tree):
    """Every class of a file."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def is_dataclass(node):
    """Whether a class is decorated as one."""
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def is_declaration(node):
    """Whether a class only declares: a protocol or a tuple."""
    return any(ast.unparse(base) in ("Protocol", "NamedTuple") for base in node.bases)


def reading(tree):
    """The names read of `self` in a piece of code."""
    return {x.attr for x in ast.walk(tree) if isinstance(x, ast.Attribute) and isinstance(x.ctx, ast.Load)
            and isinstance(x.value, ast.Name) and x.value.id == "self"}


def test_the_checks_see():
    """What the helpers find in a small file: a law that looks at nothing holds always."""
    tree = ast.parse("import a.b\nfrom ecrec_jax import build\nfrom ecrec_jax.types import State\n"
                     "def f():\n  import wandb\nclass C:\n  def g(self): return self.x")
    assert imported(tree) == ["a.b", "ecrec_jax.build", "ecrec_jax.types", "wandb"]
    assert [f.name for f in functions(tree)] == ["f", "g"] and reading(classes(tree)[0]) == {"x"}
    assert (part("ecrec_jax.model.bert"), part("experiments.train"), part("jax.numpy")) == ("model", "experiments", None)
    assert len(CODE) > 40


@pytest.mark.parametrize("name", CODE)
def test_layers(name):
    """A file imports from its own layer or a lower one; inside the layer of nouns hardly anything."""
    module = module_of(name)
    mine = part(module)
    if mine == "ecrec_jax":   # the package itself
        assert not imported(TREES[name])
        return
    for other in imported(TREES[name]):
        theirs = part(other)
        if theirs is None or other == "experiments.launch" or theirs == "ecrec_jax":
            continue
        assert layer(theirs) <= layer(mine), f"{name} imports {other}, which lies above it"
        if mine in INSIDE:
            assert theirs in INSIDE[mine], f"{name} imports {other}"
        if mine in ALONE:
            assert theirs != mine, f"{name} imports its sibling {other}"


# a package, and the files that may import it
ONLY = {"hydra": r"experiments/", "omegaconf": r"experiments/", "wandb": r"ecrec_jax/tracker/wandb\.py$",
        "tensorboard": r"ecrec_jax/tracker/tensorboard\.py$",
        "orbax": r"ecrec_jax/checkpoint\.py$", "torch": r"$^", "pickle": r"ecrec_jax/torch_file\.py$",
        "dill": r"$^", "cloudpickle": r"$^",
        "tensorflow": r"$^", "matplotlib": r"experiments/plot\.py$", "optuna": r"experiments/search\.py$",
        "sklearn": r"ecrec_jax/(metrics\.py|use/)",
        "transformers": r"ecrec_jax/data/tokenise\.py$", "tokenizers": r"ecrec_jax/data/vocabulary\.py$",
        "huggingface_hub": r"ecrec_jax/source\.py$",
        "ibis": r"ecrec_jax/data/(cell|engine|prepare)\.py$", "duckdb": r"ecrec_jax/data/engine\.py$",
        "pyspark": r"ecrec_jax/data/engine\.py$", "datasketch": r"ecrec_jax/data/near\.py$",
        "phonenumbers": r"ecrec_jax/data/personal\.py$", "grain": r"$^", "absl": r"$^"}


@pytest.mark.parametrize("package", ONLY)
def test_one_place(package):
    """A package with effects or weight is imported where it belongs, and nowhere else."""
    users = [name for name in CODE if package in {module.split(".")[0] for module in imported(TREES[name])}]
    assert not [name for name in users if not re.match(ONLY[package], name)]
    assert users or ONLY[package] == "$^", f"nobody imports {package}: is the law still about anything?"


def test_pure():
    """Below the third layer no file reads a clock, a file or the environment, but for what the CPU can do, which a product asks."""
    for name in CODE:
        if part(module_of(name)) in {*PURE, "types", "net", "step"} - {"matmul"}:
            tops = {module.split(".")[0] for module in imported(TREES[name])}
            assert not tops & {"os", "pathlib", "time", "datetime", "random", "subprocess", "io", "shutil", "json", "yaml"}, name
            assert "open" not in {node.func.id for node in ast.walk(TREES[name])
                                  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}, name


def test_devices():
    """Devices are looked for in one file and processes in another, counted where a product asks whether it has one alone, and
    written down once a run."""
    asking = {"devices", "local_devices", "device_count", "local_device_count", "process_index", "process_count", "distributed"}
    seen = []
    for name in CODE:
        for function in functions(TREES[name]):
            if asking & {x.attr for x in ast.walk(function) if isinstance(x, ast.Attribute) and ast.unparse(x.value) == "jax"}:
                seen.append((name, function.name))
        top = [node for node in TREES[name].body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert not re.search(r"jax\.(local_)?devices", "\n".join(map(ast.unparse, top))), name
    outside = [(name, function) for name, function in seen if name not in ("ecrec_jax/mesh.py", "ecrec_jax/processes.py")]
    assert len(seen) > len(outside)
    assert outside == [("ecrec_jax/matmul.py", "pays"), ("experiments/record.py", "environment")]


def test_no_lumber_room():
    """No utils.py, by whatever name."""
    assert not [name for name in SOURCES if Path(name).stem in ("utils", "util", "helpers", "common", "misc", "registry")]


@pytest.mark.parametrize("name", CODE)
def test_size(name):
    """Files under 200 lines, functions at most 60."""
    assert len(SOURCES[name].splitlines()) < 200
    for function in functions(TREES[name]):
        assert function.end_lineno - function.lineno < 60, f"{name}:{function.lineno} {function.name}"


@pytest.mark.parametrize("name", CODE)
def test_annotations(name):
    """Every argument of every function says its type."""
    for function in functions(TREES[name]):
        given = function.args
        everything = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, [given.vararg, given.kwarg])]
        bare = [x.arg for x in everything if x.annotation is None and x.arg not in ("self", "cls")]
        assert not bare, f"{name}:{function.lineno} {function.name}({', '.join(bare)})"


@pytest.mark.parametrize("name", CODE)
def test_docstrings(name):
    """Every file, and every public function and class in it, says what it is."""
    tree = TREES[name]
    assert ast.get_docstring(tree), name
    stubs = {id(f) for node in classes(tree) if is_declaration(node) for f in node.body}
    inner = {id(f) for outer in functions(tree) for f in ast.walk(outer) if f is not outer}
    for node in [*functions(tree), *classes(tree)]:
        if not node.name.startswith("_") and id(node) not in stubs | inner:
            assert ast.get_docstring(node), f"{name}:{node.lineno} {node.name}"


@pytest.mark.parametrize("name", [name for name in CODE if part(module_of(name)) in NOUNS and name.startswith("ecrec_jax/")])
def test_fields_are_read(name):
    """No key without effect: a field of a dataclass is read as `self.field`, an argument of a constructor in its body, and
    what a constructor keeps is read."""
    for node in classes(TREES[name]):
        methods = {f.name: f for f in node.body if isinstance(f, ast.FunctionDef)}
        if is_dataclass(node) and methods:
            fields = [x.target.id for x in node.body if isinstance(x, ast.AnnAssign)]
            read = set().union(*(reading(f) for title, f in methods.items() if title != "__post_init__"))   # a check is no use
            unread = [x for x in fields if x not in read and not (name.startswith("ecrec_jax/data/") and x in read_of_data())]
            assert not unread, f"{name}:{node.lineno} {node.name} never reads {', '.join(unread)}"
        if "__init__" in methods:
            constructor = methods["__init__"]
            arguments = [x.arg for x in (*constructor.args.args, *constructor.args.kwonlyargs) if x.arg != "self"]
            used = {x.id for statement in constructor.body for x in ast.walk(statement) if isinstance(x, ast.Name)}
            unused = [x for x in arguments if x not in used]
            assert not unused, f"{name}:{node.lineno} {node.name} never uses {', '.join(unused)}"
            kept = {x.attr for x in ast.walk(constructor) if isinstance(x, ast.Attribute) and isinstance(x.ctx, ast.Store)}
            lost = kept - reading(node) - LOADED
            assert not lost, f"{name}:{node.lineno} {node.name} keeps {', '.join(sorted(lost))} and nobody reads it"


def read_of_data():
    """What is read of the data's section or object from outside: `data.x` in build.py and copies.py, `config["data"]["x"]`."""
    code = SOURCES["ecrec_jax/build.py"]
    found = {x.attr for name in ("ecrec_jax/build.py", "ecrec_jax/data/copies.py") for x in ast.walk(TREES[name])
             if isinstance(x, ast.Attribute) and ast.unparse(x.value) == "data"}
    return found | set(re.findall(r'config\["data"\]\["(\w+)"\]', code))


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_yaml(path):
    """A yaml of a noun names a class of that noun, and every key of it is an argument of the class."""
    noun = path.parent.name
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    if noun not in NOUNS:
        assert "_target_" not in (raw or {}) or noun == "baseline"
        return
    node = section_of(noun, path.stem)
    assert node["_target_"].startswith(f"ecrec_jax.{noun}.") and node["_target_"].count(".") == 3
    cls = section.target(node, noun)
    assert inspect.isclass(cls) and cls.__module__ == node["_target_"].rpartition(".")[0]
    known = {"_target_", *section.arguments(cls)} | OWN.get(noun, set())
    assert set(node) <= known, set(node) - known
    assert set(node) >= OWN.get(noun, set())


@pytest.mark.parametrize("noun", NEEDED)
def test_names(noun):
    """The names that others use are there, and every file of a noun's folder is some yaml's class."""
    assert set(NEEDED[noun].split()) <= set(names(noun))
    if noun in NOUNS:
        targets = {section_of(noun, name)["_target_"].split(".")[2] for name in names(noun)}
        assert targets == {Path(name).stem for name in CODE if name.startswith(f"ecrec_jax/{noun}/")}


@pytest.mark.parametrize("name", names("experiment"))
def test_experiment(name):
    """An experiment is a diff: nothing but named options and keys that every option of a noun has."""
    raw = yaml.safe_load((ROOT / "conf" / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").startswith("# @package _global_\n# ")
    for key, value in raw.items():
        if key in NOUNS:
            common = set.intersection(*(set(section_of(key, option)) for option in names(key)))
            assert set(value) <= common, f"{key}: {set(value) - common}"
    config = composed(f"experiment={name}")
    chosen = [next(iter(entry.items())) for entry in raw["defaults"]]
    for group, option in chosen:
        noun = group.removeprefix("override /")
        assert config[noun]["_target_"] == section_of(noun, option)["_target_"]


def test_trackers_side_by_side():
    """A list of trackers keeps them all, the one of the defaults too."""
    for overrides in ([], ["tracker=[console,jsonl,wandb]"], ["tracker=[wandb,jsonl,console]"]):
        found = composed(*overrides)["tracker"]
        assert set(found) == {"console", "jsonl", "wandb"}
        assert {node["_target_"].rpartition(".")[2] for node in found.values()} == {"Console", "Jsonl", "Wandb"}
    assert set(composed("tracker=[jsonl]")["tracker"]) == {"jsonl"}


def test_commands():
    """Every command has its yaml, starts through the launcher alone, and imports nothing heavy before it."""
    commands = [name for name in CODE if name.startswith("experiments/") and "__main__" in SOURCES[name]]
    assert {Path(name).stem for name in commands} >= {"train", "evaluate", "predict", "export", "table"}
    for name in commands:
        assert (ROOT / "conf" / Path(name).name).with_suffix(".yaml").is_file()
        first = TREES[name].body[1]
        assert isinstance(first, ast.If) and "settle()" in ast.unparse(first), name
        assert f"launch(main, '{Path(name).stem}')" in ast.unparse(TREES[name].body[-1])
    top = [node for node in TREES["experiments/launch.py"].body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {part(m) or m.split(".")[0] for node in top for m in imported(ast.Module([node], []))} <= {
        "os", "sys", "ctypes", "gc", "signal", "re", "difflib", "collections", "pathlib", "typing"}


def test_lock():
    """The lock file pins, names no host and no file, and has every dependency of pyproject.toml in a version it allows."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line), line
    pinned = {normal(line.split("==")[0]): line.split("==")[1] for line in lines}
    assert len(pinned) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for wanted in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        name, least = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", wanted).groups()
        assert version(pinned[normal(name)]) >= version(least), wanted
    assert not {"torch", "tensorflow", "ecrec-jax"} & set(pinned)


def normal(name):
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version(text):
    """The numbers of a release."""
    return tuple(int(x) for x in re.match(r"\d+(\.\d+)*", text)[0].split("."))
