"""The structure that `design` promises: arrows run one way, the front door lists everything."""

import ast
import importlib
import inspect
import io
import pathlib
import sys
import tokenize
import typing

import pytest

import agn_helpers as agn

PACKAGE = pathlib.Path(agn.__file__).parent
ROOMS = sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("__"))

# What a room may import of ours at its top. An import inside a function is for what few readers need.
ARROWS = {
    "errors": set(),
    "files": {"errors", "members"},
    "environment": set(),
    "columns": {"errors"},
    "codecs": {"errors"},
    "members": {"errors"},
    "arrays": {"errors", "codecs", "members"},
    "catalog": {"errors", "columns"},
    "lightcurves": {"errors", "columns"},
    "plotting": {"columns", "errors"},
    "store": {"errors", "columns", "catalog", "lightcurves", "arrays", "packed"},
    "sample": {"errors", "files", "columns", "lightcurves", "catalog"},
    "validate": {"errors", "columns", "catalog", "members", "arrays", "store", "files", "packed"},
    "parallel": {"errors", "store", "lightcurves"},
    "features": {"errors", "columns", "arrays", "files", "parallel"},
    "packed": {"errors", "arrays", "files", "members"},
    "stripe82": {"errors", "columns", "files", "sample"},
    "classes": {"errors", "columns", "store"},
    "editions": {"errors", "arrays", "columns", "lightcurves", "store"},
}


def imported(tree, top_only):
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("agn_helpers"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [a.name for a in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("agn_helpers."))


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_run_one_way(room):
    tree = ast.parse((PACKAGE / f"{room}.py").read_text())
    assert set(imported(tree, top_only=True)) <= ARROWS[room]


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_dangerous_is_called(room):
    """No eval, exec, pickle, shell or print anywhere in the module."""
    tree = ast.parse((PACKAGE / f"{room}.py").read_text())
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert not names & {"eval", "exec", "print", "__import__"}
    modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    modules |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not modules & {"pickle", "marshal", "shelve", "dill"}
    keywords = {k.arg for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords}
    assert "shell" not in keywords


def test_front_door_lists_each_name_once_and_in_order():
    assert sorted(agn.__all__) == list(agn.__all__)
    assert len(set(agn.__all__)) == len(agn.__all__)


PUBLIC = [getattr(agn, n) for n in agn.__all__ if callable(getattr(agn, n))]


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda t: t.__name__)
def test_public_names_are_documented_and_annotated(thing):
    doc = inspect.getdoc(thing)
    assert doc, "no docstring"
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    functions = [thing]
    if inspect.isclass(thing):
        functions = [f for n, f in inspect.getmembers(thing, inspect.isfunction) if not n.startswith("_")]
    for f in functions:
        doc = inspect.getdoc(f) or ""
        signature = inspect.signature(f)
        named = [p for p in signature.parameters.values() if p.name != "self"]
        assert doc, f.__name__
        if named:
            assert "Parameters\n----" in doc, f"{f.__name__} has no section Parameters"
        for p in named:
            assert f"{p.name} :" in doc or f"{p.name}, " in doc, f"{f.__name__} does not explain {p.name}"
        hints = typing.get_type_hints(f, vars(importlib.import_module(f.__module__)) | _typing_names())
        assert "return" in hints, f.__name__
        assert {p.name for p in named} <= set(hints), f.__name__
    if not inspect.isclass(thing):
        assert ">>>" in inspect.getdoc(thing), f"{thing.__name__} has no example"


def _typing_names():
    """Names that modules import only for type checkers."""
    from matplotlib.axes import Axes

    return {"Axes": Axes}


ERRORS = [getattr(agn, n) for n in agn.__all__ if n.endswith("Error")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.__name__)
def test_each_error_is_ours_and_a_builtin(error):
    assert issubclass(error, agn.TrainingSetError)
    if error is agn.TrainingSetError:
        return
    builtin = [
        b for b in error.__mro__ if b.__module__ == "builtins" and b not in (Exception, BaseException, object)
    ]
    assert builtin, "is no builtin that a reader would catch"
    assert str(error("a 'quoted' message")) == "a 'quoted' message"  # KeyError would show its repr


def _pyarrow(tmp_path):
    for name in ("ObjectTable.parquet", "ForcedSourceTable.parquet"):
        (tmp_path / name).write_bytes(b"")
    agn.open_training_set(tmp_path)


def _executor(name):
    def use(_):
        with agn.open_training_set() as ts:
            agn.map_light_curves(len, ts, ids=[0], executor=name, progress=False)

    return use


@pytest.mark.parametrize(
    ("package", "extra", "error", "use"),
    [
        ("pyarrow", "editions", agn.NotATrainingSetError, _pyarrow),
        ("cloudpickle", "parallel", agn.InvalidValueError, _executor("processes")),
        ("dask", "parallel", agn.InvalidValueError, _executor("dask")),
        ("requests", "download", agn.FetchError, lambda folder: agn.fetch_stripe82(folder, ["x"])),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_package_that_few_readers_need_is_named(package, extra, error, use, tmp_path, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(error, match=rf"needs the package {package}, .* install 'agn-helpers\[{extra}\]'"):
        use(tmp_path)


def code_lines(path):
    """Lines that hold code: no docstring, no comment, no blank."""
    source = path.read_text()
    words = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            words |= set(range(node.lineno, node.end_lineno + 1))
    skip = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skip:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - words)


def test_the_module_fits_in_a_head():
    """What only builds, measures or attacks the book belongs outside; what is here stays small."""
    count = {p.stem: code_lines(p) for p in PACKAGE.glob("*.py")}
    assert sum(count.values()) <= 3840, f"{sum(count.values())} lines of code: {count}"
