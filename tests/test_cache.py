"""Compiled kernels on disk: right results whatever befalls the files, and nobody else's pickles.

Most tests run in processes of their own, on the smallest driver (`cholesky.solve`, compiled in
less than a second), from a copy of the kernels alone, whose import leaves out scikit-learn.
"""

from __future__ import annotations

import compileall
import json
import os
import pickle
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import pytest
from child import ROOT, run_python

from fastsoftmax import _cache
from fastsoftmax._cache import KernelCache, cache_directory
from fastsoftmax._kernels import cholesky
from fastsoftmax._versions import describe

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="nothing is compiled, so nothing is cached"
)
posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and privileges are Linux's")
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)

#: Solves 4 x = b with L = 2 I, and prints the solution, the hits, the misses and what is stored.
SOLVE = """
import json, sys
import numpy as np
from fastsoftmax import _jit
from fastsoftmax._cache import cache_directory
from fastsoftmax._kernels import cholesky

x = np.full((1, 1, 4), 8.0)
cholesky.solve(0, 1, _jit.kernel_view(2.0 * np.eye(4)), x, np.empty((1, 4)))
stats = cholesky.solve.stats
folder = cache_directory()
print(json.dumps({
    "x": x[0, 0].tolist(),
    "hits": sum(stats.cache_hits.values()),
    "misses": sum(stats.cache_misses.values()),
    "folder": folder and str(folder),
}))
"""

#: Modes bind root, too, once it has given up its privileges.
UNPRIVILEGED = """
import ctypes, os
if os.geteuid() == 0:
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, nothing) == 0
"""


def copy_kernels(site):
    """Copy the cache, `_jit` and the kernels into a package without the rest; return its folder."""
    package = site / "fastsoftmax"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastsoftmax" / "_kernels", package / "_kernels", ignore=ignore)
    for module in ("_cache.py", "_jit.py"):
        shutil.copy(ROOT / "fastsoftmax" / module, package)
    (package / "__init__.py").touch()
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return copy_kernels(tmp_path_factory.mktemp("kernels") / "site")


@pytest.fixture(scope="module")
def solve(site):
    """Return what `code` reports with a cache in a given folder."""

    def run(folder, *, path=site, code=SOLVE, **environment):
        return json.loads(
            run_python(code, path=path, FASTSOFTMAX_CACHE_DIR=str(folder), **environment)
        )

    return run


@pytest.fixture(scope="module")
def warm_folder(solve, tmp_path_factory):
    """A cache with the one entry of `SOLVE`."""
    folder = tmp_path_factory.mktemp("cache") / "warm"
    solve(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "not there yet" / "cache"


def entries(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def assert_solved(result, hits, right=2.0):
    assert (result["x"], result["hits"]) == ([right] * 4, hits)


def after(lines, code=SOLVE):
    """Return code that runs some lines once all is imported."""
    return code.replace("\nx = ", f"\n{lines}\nx = ")


# --- Hits and misses ------------------------------------------------------------------------------


def test_a_second_process_takes_what_the_first_compiled(solve, folder):
    cold = solve(folder)
    assert_solved(cold, hits=0)
    assert cold["misses"] == 1
    stored = entries(folder)
    assert len(stored) == 1
    assert stored[0].startswith("solve-")
    assert stored[0].endswith(".kernel")
    before = (folder / stored[0]).stat()
    if os.name == "posix":
        assert before.st_mode & 0o777 == 0o600
    warm = solve(folder)
    assert_solved(warm, hits=1)
    assert warm["misses"] == 0
    assert entries(folder) == stored
    assert (folder / stored[0]).stat().st_mtime_ns == before.st_mtime_ns


def signed(payload, entry):
    return _cache._checksum(entry, payload) + payload


def truncated(content, entry):
    return content[: len(content) // 2]


def flipped(content, entry):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def empty(content, entry):
    return b""


def checksum_only(content, entry):
    return content[:32]


def another_format(content, entry):
    return signed(b"not a pickle", entry)


def another_pickle(content, entry):
    return signed(pickle.dumps((1, 2)), entry)


def of_another_kernel(content, entry):
    return signed(content[32:], entry.with_stem("copied"))


@pytest.mark.parametrize(
    "damage",
    [truncated, flipped, empty, checksum_only, another_format, another_pickle, of_another_kernel],
    ids=lambda function: function.__name__,
)
def test_a_damaged_entry_is_not_loaded(damage, warm_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(warm_folder, tmp_path / "copy")
    monkeypatch.setenv("FASTSOFTMAX_CACHE_DIR", str(folder))
    floats = numba.float64
    matrix = numba.types.Array(floats, 2, "C", readonly=True)
    signature = (numba.int64, numba.int64, matrix, floats[:, :, ::1], floats[:, ::1])
    (entry,) = folder.iterdir()
    cache, context = cholesky.solve._cache, numba.core.registry.cpu_target.target_context
    assert cache.load_overload(signature, context) is not None
    entry.write_bytes(damage(entry.read_bytes(), entry))
    assert cache.load_overload(signature, context) is None


def test_a_damaged_entry_is_compiled_anew_and_replaced(solve, warm_folder, tmp_path):
    folder = shutil.copytree(warm_folder, tmp_path / "copy")
    (entry,) = folder.iterdir()
    entry.write_bytes(flipped(entry.read_bytes(), entry))
    assert_solved(solve(folder), hits=0)
    assert entries(folder) == [entry.name]  # no temporary file is left
    payload = entry.read_bytes()[32:]
    assert len(payload) > 1000
    assert entry.read_bytes() == signed(payload, entry)


def test_an_entry_that_is_a_folder_does_not_break_a_call(solve, warm_folder, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    (folder / entries(warm_folder)[0]).mkdir()
    assert_solved(solve(folder), hits=0)
    assert len(entries(folder)) == 1


@posix
def test_an_entry_that_is_a_pipe_is_not_waited_for(solve, warm_folder, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    entry = folder / entries(warm_folder)[0]
    os.mkfifo(entry, mode=0o600)
    assert_solved(solve(folder), hits=0)
    assert entry.is_file()


def upgrade(site):
    """Edit a callee of the driver, so that it solves L x = 2 L b."""
    kernel = site / "fastsoftmax" / "_kernels" / "cholesky.py"
    source = kernel.read_text()
    edited = source.replace("x[k] -= scale * row[k]", "x[k] -= 2.0 * scale * row[k]")
    edited = edited.replace("rights[r, i] /= a[i, i]", "rights[r, i] /= 0.5 * a[i, i]")
    assert edited.count("0.5") == 1
    kernel.write_text(edited)


def test_an_edited_callee_changes_the_key(solve, warm_folder, tmp_path):
    copy = copy_kernels(tmp_path / "site")
    folder = shutil.copytree(warm_folder, tmp_path / "cache")
    assert_solved(solve(folder, path=copy), hits=1)  # the place does not matter ...
    upgrade(copy)  # ... but a callee does
    assert_solved(solve(folder, path=copy), hits=0, right=4.0)
    assert len(entries(folder)) == 2  # the other build keeps its entry


def test_a_package_edited_under_a_running_process_stores_nothing(solve, tmp_path):
    """What it compiles is the old code, and the new sources are what its names would stand for."""
    copy = copy_kernels(tmp_path / "site")
    edited = copy_kernels(tmp_path / "edited")
    upgrade(edited)
    source, target = (s / "fastsoftmax" / "_kernels" / "cholesky.py" for s in (edited, copy))
    edit = f"import shutil; shutil.copy({str(source)!r}, {str(target)!r})"
    folder = tmp_path / "cache"
    assert_solved(solve(folder, path=copy, code=after(edit)), hits=0)
    assert entries(folder) == []
    assert_solved(solve(folder, path=copy), hits=0, right=4.0)


def test_drivers_have_entries_of_their_own_that_see_other_files(solve, folder, tmp_path):
    """What Numba's own cache gets wrong (numba#6845, numba#8851)."""
    copy = copy_kernels(tmp_path / "site")
    kernels = copy / "fastsoftmax" / "_kernels"
    callee = "@block_kernel\ndef double(x):\n    return 2.0 * x\n"
    imports = "from fastsoftmax._jit import block_kernel, driver\n"
    (kernels / "callee.py").write_text(imports + callee)
    caller = """
from fastsoftmax._kernels.callee import double

@driver
def run(first, last, out):
    for i in range(first, last):
        out[i] = double(21.0)
"""
    (kernels / "caller.py").write_text(imports + caller)
    code = """
import json
import numpy as np
from fastsoftmax._jit import launch, machine_code
from fastsoftmax._kernels.caller import run
results = []
out = np.zeros(2)
launch(2, machine_code(run, (out,)), (out,))
results.append([out.tolist(), sum(run.stats.cache_hits.values())])
run(0, 2, out)
results.append([out.tolist(), sum(launch.stats.cache_hits.values())])
print(json.dumps(results))
"""
    assert solve(folder, path=copy, code=code) == [[[42.0] * 2, 0]] * 2
    assert [name.split("-")[0] for name in entries(folder)] == ["_launch", "run"]
    assert solve(folder, path=copy, code=code) == [[[42.0] * 2, 1]] * 2
    (kernels / "callee.py").write_text(imports + callee.replace("2.0", "3.0"))
    assert solve(folder, path=copy, code=code) == [[[63.0] * 2, 0]] * 2


def test_function_options_signature_and_cpu_are_part_of_the_key(monkeypatch, folder):
    monkeypatch.setenv("FASTSOFTMAX_CACHE_DIR", str(folder))

    class Codegen(NamedTuple):
        cpu: str

        def magic_tuple(self):
            return "triple", self.cpu, "+features"

    def same(x):
        return x

    def other(x):
        return x

    keys = {
        KernelCache(function, options)._entry(signature, Codegen(cpu))
        for function in (same, other)
        for options in ({}, {"parallel": True}, {"fastmath": True})
        for signature in ("(float64,)", "(float32,)")
        for cpu in ("znver5", "haswell")
    }
    assert len(keys) == 24


def test_settings_that_change_the_code_change_the_key(solve, warm_folder, tmp_path):
    folder = shutil.copytree(warm_folder, tmp_path / "copy")
    assert solve(folder, NUMBA_OPT="1")["hits"] == 0
    assert solve(folder, NUMBA_NUM_THREADS="1")["hits"] == 1


def test_code_for_another_cpu_is_kept_apart(solve, warm_folder, tmp_path):
    """A home that machines of several kinds share."""
    folder = shutil.copytree(warm_folder, tmp_path / "copy")
    assert_solved(solve(folder, NUMBA_CPU_NAME="generic"), hits=0)
    assert len(entries(folder)) == 2
    assert_solved(solve(folder), hits=1)


def test_what_is_old_is_pruned(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "_MOST_ENTRIES", 3)
    for age in range(6):
        entry = tmp_path / f"{age}.kernel"
        entry.touch()
        os.utime(entry, (1e9 - age, 1e9 - age))
    for name, age in (("abandoned", 4000), ("being written", 60)):
        unfinished = tmp_path / f"{name}.kernel.part"
        unfinished.touch()
        os.utime(unfinished, (time.time() - age,) * 2)
    (tmp_path / "not ours").touch()
    _cache._prune(tmp_path)
    kept = ["0.kernel", "1.kernel", "2.kernel", "being written.kernel.part", "not ours"]
    assert entries(tmp_path) == kept


# --- Several processes, and kills -----------------------------------------------------------------


def test_six_processes_at_once(solve, tmp_path):
    wait_for_all = f"""
import os, pathlib, time
place = pathlib.Path({str(tmp_path)!r})
(place / f"{{os.getpid()}}.ready").touch()
while len(list(place.glob("*.ready"))) < 6:
    time.sleep(0.01)
"""
    folder = tmp_path / "cache"
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda _: solve(folder, code=after(wait_for_all)), range(6)))
    for result in results:
        assert result["x"] == [2.0] * 4
    assert len(entries(folder)) == 1  # and no unfinished file


@posix
def test_an_upgrade_killed_between_its_writes(solve, warm_folder, tmp_path):
    copy = copy_kernels(tmp_path / "site")
    upgrade(copy)
    folder = shutil.copytree(warm_folder, tmp_path / "cache")
    dies = "import os, signal, tempfile\ndie = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    halfway = """
create = tempfile.NamedTemporaryFile
def created(**options):
    file = create(**options)
    write = file.file.write
    file.write = lambda content: (write(content[:999]), file.flush(), die())
    return file
tempfile.NamedTemporaryFile = created
"""
    for lines, n_unfinished in ((halfway, 1), ("os.replace = die", 2)):
        with pytest.raises(AssertionError, match="exit status -9"):
            solve(folder, path=copy, code=after(dies + lines))
        names = entries(folder)
        assert sum(name.endswith(".kernel.part") for name in names) == n_unfinished
        assert len(names) == n_unfinished + 1
    assert_solved(solve(folder, path=copy), hits=0, right=4.0)
    assert_solved(solve(folder), hits=1)


# --- Disks and installations ----------------------------------------------------------------------


@linux
def test_a_full_disk_does_not_break_a_call(solve, folder):
    """The system refuses to make any file longer than 4 kB."""
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    assert_solved(solve(folder, code=after(full)), hits=0)
    assert folder.exists()
    assert entries(folder) == []


@linux
def test_a_folder_that_is_not_writable_serves_what_it_has(solve, warm_folder, tmp_path):
    folder = shutil.copytree(warm_folder, tmp_path / "cache")
    single = UNPRIVILEGED + SOLVE.replace("np.eye(4)", "np.eye(4, dtype=np.float32)")
    stored = entries(folder)
    folder.chmod(0o500)
    try:
        assert_solved(solve(folder, code=UNPRIVILEGED + SOLVE), hits=1)
        assert_solved(solve(folder, code=single), hits=0)
    finally:
        folder.chmod(0o700)
    assert entries(folder) == stored


@linux
def test_nothing_is_writable(tmp_path):
    """Neither package nor home, as in a container of a read-only image."""
    site, home = copy_kernels(tmp_path / "site"), tmp_path / "home"
    home.mkdir()
    places = [home, *site.rglob("*")]
    for place in places:
        place.chmod(place.stat().st_mode & ~0o222)
    nowhere = {"HOME": str(home), "XDG_CACHE_HOME": "", "FASTSOFTMAX_CACHE_DIR": ""}
    whole = """
import fastsoftmax
fastsoftmax.show_versions()
"""
    try:
        result = json.loads(run_python(UNPRIVILEGED + SOLVE, path=site, **nowhere))
        printed = run_python(UNPRIVILEGED + whole, **nowhere)
    finally:
        for place in places:
            place.chmod(place.stat().st_mode | 0o200)
    assert_solved(result, hits=0)
    assert result["folder"] is None
    assert "none, kernels compile in every process: [Errno 13]" in printed
    assert entries(home) == []


def without_sources(site):
    assert compileall.compile_dir(site, quiet=1, legacy=True, force=True)
    for source in site.rglob("*.py"):
        source.unlink()


def test_a_package_without_sources(solve, folder, tmp_path):
    site, edited = (copy_kernels(tmp_path / name) for name in ("site", "edited"))
    upgrade(edited)
    without_sources(site)
    without_sources(edited)
    for hits in (0, 1):
        assert_solved(solve(folder, path=site), hits=hits)
    assert_solved(solve(folder, path=edited), hits=0, right=4.0)


def test_a_package_in_an_archive(solve, folder, tmp_path):
    archive = shutil.make_archive(tmp_path / "site", "zip", copy_kernels(tmp_path / "site"))
    code = f"import sys; sys.path.insert(0, {archive!r})\n{SOLVE}"
    for hits in (0, 1):
        assert_solved(solve(folder, path=tmp_path, code=code), hits=hits)
        assert len(entries(folder)) == 1


def test_a_package_whose_files_cannot_be_read(solve, folder):
    """As where an application is frozen into one file."""
    hidden = """
import importlib.resources
files = importlib.resources.files
def none_of_ours(package):
    if package == "fastsoftmax":
        raise TypeError("no files")
    return files(package)
importlib.resources.files = none_of_ours
"""
    assert_solved(solve(folder, code=hidden + SOLVE), hits=0)
    assert entries(folder) == []


# --- Folders --------------------------------------------------------------------------------------


@pytest.fixture
def named(monkeypatch):
    """Return a function that names a folder in the environment."""

    def name(folder):
        monkeypatch.setenv("FASTSOFTMAX_CACHE_DIR", str(folder))
        return folder

    return name


@posix
def test_the_folder_is_created_private(folder, named):
    """... and so is what is missing above it, whatever the process hides from others by itself."""
    named(folder)
    mask = os.umask(0)
    try:
        assert cache_directory() == folder
    finally:
        os.umask(mask)
    for place in (folder, folder.parent):
        assert place.stat().st_mode & 0o777 == 0o700


@posix
def test_a_folder_that_others_may_write_to_is_not_used(solve, tmp_path, named):
    folder = named(tmp_path / "shared")
    folder.mkdir()
    for mode, is_private in ((0o700, True), (0o755, True), (0o770, False), (0o702, False)):
        folder.chmod(mode)
        assert cache_directory() == (folder if is_private else None)
    folder.chmod(0o777)
    result = solve(folder)
    assert_solved(result, hits=0)
    assert result["folder"] is None
    assert entries(folder) == []


@posix
def test_a_folder_of_someone_else_is_not_used(tmp_path, monkeypatch, named):
    folder = named(tmp_path / "theirs")
    folder.mkdir(mode=0o700)
    assert cache_directory() == folder
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert cache_directory() == (folder if owner == 0 else None)  # root may see all anyhow


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path, named):
    file = named(tmp_path / "file")
    file.touch()
    assert cache_directory() is None
    named(file / "below")
    assert cache_directory() is None


@pytest.mark.parametrize("name", ["kernels", "~/kernels", "./kernels"])
def test_a_relative_folder_is_not_used(name, tmp_path, monkeypatch, named):
    """It would be whatever the folder that a process was started in brings along."""
    monkeypatch.chdir(tmp_path)
    named(name)
    assert cache_directory() is None
    assert entries(tmp_path) == []
    assert describe()["kernel cache"].endswith("is not an absolute path")


@linux
def test_the_default_folder_is_the_user_s(tmp_path, monkeypatch, named):
    named("")  # as if it were not there
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "fastsoftmax"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for relative in ("", "xdg"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache_directory() == tmp_path / "home" / ".cache" / "fastsoftmax"


def test_no_home_is_done_without(monkeypatch, named):
    named("")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(_cache, "_user_cache_home", homeless)
    assert cache_directory() is None


# --- Attacks --------------------------------------------------------------------------------------
#
# Who may write an entry may run what he likes in the process that reads it.

SOMEONE = 12345


class Place:
    """A folder `above`, in it the cache, in it an entry that makes the folder `harm` when read."""

    def __init__(self, root):
        self.above, self.harm = root / "above", root / "harm"
        self.cache = self.named = self.above / "cache"
        self.cache.mkdir(parents=True, mode=0o700)
        self.above.chmod(0o700)
        self.kernels = KernelCache(len_of_nothing, {})
        self.context = numba.core.registry.cpu_target.target_context

    def plant(self):
        entry = self.kernels._entry("()", self.context.codegen())
        entry.write_bytes(signed(pickle.dumps(Attack(self.harm)), entry))
        entry.chmod(0o600)
        self.entry = self.cache / entry.name

    def name(self, link):
        """Make a link to the cache, and name it."""
        link.symlink_to(self.cache)
        self.named = link


class Attack:
    def __init__(self, harm):
        self.harm = harm

    def __reduce__(self):
        return os.mkdir, (str(self.harm),)


def len_of_nothing():
    return len(())


def nothing_more(place): ...


def a_link_of_mine(place):
    place.name(place.above / "link")


def a_sticky_folder_above_that_all_may_write_to(place):
    place.above.chmod(0o1777)


def a_folder_above_that_a_group_may_write_to(place):
    place.above.chmod(0o770)


def a_folder_that_a_group_may_write_to(place):
    place.cache.chmod(0o770)


def a_folder_above_that_all_may_write_to(place):
    place.above.chmod(0o777)


def a_link_into_a_folder_that_all_may_write_to(place):
    a_folder_above_that_all_may_write_to(place)
    place.name(place.above.parent / "link")


def a_file_that_a_group_may_write_to(place):
    place.entry.chmod(0o620)


def a_file_that_all_may_write_to(place):
    place.entry.chmod(0o602)


def someone_s_file(place):
    os.chown(place.entry, SOMEONE, -1)


def someone_s_folder(place):
    os.chown(place.cache, SOMEONE, -1)


def someone_s_folder_above(place):
    os.chown(place.above, SOMEONE, -1)


def someone_s_link(place):
    a_link_of_mine(place)
    os.lchown(place.named, SOMEONE, -1)


def someone_s_link_above(place):
    link = place.above.parent / "link"
    link.symlink_to(place.above)
    os.lchown(link, SOMEONE, -1)
    place.named = link / "cache"


@posix
@pytest.mark.parametrize(
    ("change", "is_read"),
    [
        (nothing_more, True),
        (a_link_of_mine, True),
        (a_sticky_folder_above_that_all_may_write_to, True),
        (a_folder_above_that_a_group_may_write_to, True),
        (a_folder_that_a_group_may_write_to, False),
        (a_folder_above_that_all_may_write_to, False),
        (a_link_into_a_folder_that_all_may_write_to, False),
        (a_file_that_a_group_may_write_to, False),
        (a_file_that_all_may_write_to, False),
        pytest.param(someone_s_folder_above, True, marks=as_root),
        pytest.param(someone_s_folder, False, marks=as_root),
        pytest.param(someone_s_file, False, marks=as_root),
        pytest.param(someone_s_link, False, marks=as_root),
        pytest.param(someone_s_link_above, False, marks=as_root),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_others_may_have_written_is_not_read(change, is_read, tmp_path, named):
    place = Place(tmp_path)
    named(place.cache)
    place.plant()
    change(place)
    named(place.named)
    assert place.kernels.load_overload("()", place.context) is None
    assert place.harm.exists() == is_read


@as_root
def test_a_folder_exchanged_after_the_look_at_it(tmp_path, monkeypatch, named):
    """Between the look at the folder and the opening of a file another one can take its name."""
    place = Place(tmp_path)
    named(place.cache)
    place.plant()
    someone_s_folder(place)
    someone_s_file(place)
    monkeypatch.setattr(_cache, "_check_private", lambda folder: None)
    assert place.kernels.load_overload("()", place.context) is None
    assert not place.harm.exists()


# --- Import ---------------------------------------------------------------------------------------


def test_import_compiles_nothing_and_touches_no_folder(solve, folder):
    code = """
import json, sys
import fastsoftmax, fastsoftmax.functional
from numba.core.dispatcher import Dispatcher
from numba.np.ufunc import parallel
dispatchers = {
    f"{module.__name__}.{name}": len(value.signatures)
    for module in list(sys.modules.values()) if module.__name__.startswith("fastsoftmax")
    for name, value in vars(module).items() if isinstance(value, Dispatcher)
}
print(json.dumps([dispatchers, parallel._is_initialized]))
"""
    dispatchers, launched = solve(folder, path=ROOT, code=code)
    assert len(dispatchers) >= 12
    assert set(dispatchers.values()) == {0}
    assert not launched
    assert not folder.exists()
    assert not folder.parent.exists()
