"""What the package never does: run text, start programs, unpickle, talk to the network.

Read from its sources, and heard from the interpreter while it fits and predicts.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numba
import pytest
from child import run_python

import fastsoftmax

PACKAGE = Path(fastsoftmax.__file__).parent

#: Modules that run text or programs, turn bytes into objects, reach into memory or the network.
DANGEROUS_MODULES = {
    *("_pickle", "cloudpickle", "code", "codeop", "ctypes", "dill", "ftplib", "http", "marshal"),
    *("pickle", "pty", "requests", "runpy", "shelve", "smtplib", "socket", "socketserver"),
    *("subprocess", "urllib", "webbrowser", "xmlrpc", "yaml"),
}
#: Functions that do, by their full names.
DANGEROUS_NAMES = {
    *("__import__", "compile", "eval", "exec", "builtins.eval", "builtins.exec"),
    *("importlib.import_module", "joblib.load", "numpy.load", "np.load", "os.popen", "os.system"),
    *("os.fork", "os.forkpty", "os.posix_spawn", "os.posix_spawnp", "tempfile.mktemp"),
    *("os.execl", "os.execle", "os.execlp", "os.execlpe", "os.execv", "os.execve", "os.execvp"),
    *("os.execvpe", "os.spawnl", "os.spawnle", "os.spawnlp", "os.spawnlpe", "os.spawnv"),
    *("os.spawnve", "os.spawnvp", "os.spawnvpe"),
}
DANGEROUS_ARGUMENTS = {"allow_pickle", "shell"}

#: What is used all the same: where, and why it may be.
REVIEWED = {
    ("batches.py", "np.load"): "of a file that the user names, without objects: no pickle is read",
    ("_cache.py", "pickle"): "compiled kernels, from files that only this user or root can write",
    ("_cache.py", "pickle.loads"): "the one call: `_read` has looked at the open file before",
}


def findings(tree):
    """Yield the dangerous names that a module uses."""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom():
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            case ast.Attribute():
                names = [ast.unparse(node)]
            case ast.Name():
                names = [node.id] if node.id in DANGEROUS_NAMES else []
            case ast.keyword():
                if node.arg in DANGEROUS_ARGUMENTS:
                    yield node.arg
                continue
            case _:
                continue
        for name in names:
            if name in DANGEROUS_NAMES or name.split(".")[0] in DANGEROUS_MODULES:
                yield name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("eval('1')", "eval"),
        ("run = exec", "exec"),
        ("compile('1', '', 'eval')", "compile"),
        ("import os\nos.system('true')", "os.system"),
        ("from os import popen", "os.popen"),
        ("import os\nos.execvp('a', [])", "os.execvp"),
        ("import subprocess as s", "subprocess"),
        ("from subprocess import run", "subprocess"),
        ("import urllib.request", "urllib.request"),
        ("import pickle\npickle.loads(b'')", "pickle.loads"),
        ("import numpy as np\nnp.load('a')", "np.load"),
        ("read(allow_pickle=True)", "allow_pickle"),
        ("run('a', shell=True)", "shell"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("def f():\n    __import__('a')", "__import__"),
    ],
)
def test_the_reader_of_sources_finds_it(source, found):
    assert found in set(findings(ast.parse(source)))


@pytest.mark.parametrize("source", ["driver.compile(x)", "import os\nos.replace(a, b)", "code = 1"])
def test_the_reader_of_sources_finds_nothing_else(source):
    assert not set(findings(ast.parse(source)))


def test_the_package_does_nothing_dangerous_that_is_not_reviewed():
    used = {
        (source.relative_to(PACKAGE).as_posix(), name)
        for source in PACKAGE.rglob("*.py")
        for name in findings(ast.parse(source.read_text(encoding="utf-8")))
    }
    assert used == set(REVIEWED)
    assert all(REVIEWED.values())


def test_there_is_one_call_that_unpickles():
    calls = [
        node
        for node in ast.walk(ast.parse((PACKAGE / "_cache.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("pickle.")
    ]
    assert [ast.unparse(call.func) for call in calls] == ["pickle.loads"]


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled, or written")
def test_a_fit_writes_to_its_cache_alone(tmp_path):
    """The interpreter tells of every file opened, process started and connection made."""
    code = f"""
import json, os, sys
import numpy as np
import fastsoftmax
from fastsoftmax._cache import cache_directory
from fastsoftmax._jit import kernel_view
from fastsoftmax._kernels import cholesky

heard = []
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def hear(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if flags & WRITING and str(path) != os.devnull:
            heard.append([event, str(path)])
    elif event.split(".")[0] in ("subprocess", "socket", "urllib", "http", "ftplib", "smtplib"):
        heard.append([event, repr(arguments)])
    elif event in ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.mkdir",
                   "os.remove", "os.rename", "os.chmod", "os.link", "os.symlink", "pty.spawn"):
        heard.append([event, str(arguments[0]) if arguments else ""])

usual = cache_directory()
sys.addaudithook(hear)
X = np.random.default_rng(0).normal(size=(60, 3))
model = fastsoftmax.LogisticRegression().fit(X, np.arange(60) % 3)
model.predict_proba(X)
os.environ["FASTSOFTMAX_CACHE_DIR"] = {str(tmp_path / "cache")!r}  # one kernel that is not there
cholesky.solve(0, 1, kernel_view(np.eye(4)), np.ones((1, 1, 4)), np.empty((1, 4)))
print(json.dumps([str(usual), heard]))
"""
    usual, heard = json.loads(run_python(code, PYTHONDONTWRITEBYTECODE="1"))
    caches = [tmp_path / "cache", *([] if usual == "None" else [Path(usual)])]
    assert {"open", "os.mkdir", "os.rename"} <= {event for event, _ in heard}
    for event, path in heard:
        assert event in ("open", "os.mkdir", "os.rename", "os.remove"), (event, path)
        above = [place for cache in caches for place in cache.parents]
        is_inside = any(cache in (Path(path), *Path(path).parents) for cache in caches)
        assert is_inside or (event == "os.mkdir" and Path(path) in above), (event, path)
