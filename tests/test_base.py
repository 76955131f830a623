"""Base rooms: settings, log, resources."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episome import log, resources, settings
from episome.errors import UsageError, did_you_mean, near_names, with_option

# -- settings ------------------------------------------------------------------------------------


def test_stream_seed_is_the_same_on_every_platform():
    assert settings.stream_seed("split", 0) == 8139528639977251104
    assert settings.stream_seed("init", 0) != settings.stream_seed("split", 0)


@given(st.sampled_from(settings.STREAMS), st.integers(0, 2**64), st.integers(1, 128))
def test_stream_seed_stays_below_its_bits(name, seed, bits):
    assert 0 <= settings.stream_seed(name, seed, bits=bits) < 2**bits


def test_stream_seed_without_seed_follows_the_setting(monkeypatch):
    monkeypatch.setattr(settings, "seed", 7)

    assert settings.stream_seed("order") == settings.stream_seed("order", 7)
    assert settings.stream_seed("order", 0) != settings.stream_seed("order")


def test_stream_seed_takes_integers_of_numpy():
    assert settings.stream_seed("split", np.int64(3)) == settings.stream_seed("split", 3)


def test_stream_seed_leaves_global_random_state_alone():
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002 - under test

    settings.stream_seed("augment")

    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


@pytest.mark.parametrize("seed", [-1, 1.5, "1"])
def test_stream_seed_of_a_wrong_seed_is_refused(seed):
    with pytest.raises(UsageError, match=r"not a whole number.*To fix.*E-U05"):
        settings.stream_seed("split", seed)


def test_home_folder_follows_environment_and_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("EPISOME_HOME", str(tmp_path / "environment"))

    assert settings.home_folder() == tmp_path / "environment"

    monkeypatch.setattr(settings, "home", tmp_path / "set")

    assert settings.cache_folder("crashes") == tmp_path / "set" / "crashes"
    assert (tmp_path / "set" / "crashes").is_dir()


def test_home_folder_that_cannot_be_written_falls_back_and_says_so(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EPISOME_HOME", str(tmp_path / "file" / "folder"))

    folder = settings.home_folder()

    assert folder.is_dir()
    assert settings.home_folder() == folder
    assert caplog.text.count("cannot be written to") == 1


# -- log -----------------------------------------------------------------------------------------


def test_get_logger_stays_in_the_tree():
    assert log.get_logger("data").name == "episome.data"
    assert log.get_logger("episome.io").name == "episome.io"
    assert log.get_logger().name == "episome"


@pytest.fixture
def own_log():
    yield
    for handler in log._handlers:
        log.get_logger().removeHandler(handler)
        handler.close()
    log._handlers.clear()
    log.get_logger().setLevel(logging.NOTSET)


def test_configure_never_touches_the_root_logger(own_log, capsys):
    root = logging.getLogger()
    before = root.level, list(root.handlers)

    log.configure(1)

    assert (root.level, list(root.handlers)) == before


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [(-1, ["error: e"]), (0, ["i", "error: e"]), (2, ["d", "i", "error: e"])],
)
def test_configure_shows_by_verbosity_on_stderr(verbosity, shown, own_log, capsys):
    log.configure(verbosity)
    logger = log.get_logger("x")

    logger.debug("d")
    logger.info("i")
    logger.error("e")

    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == shown


def test_configure_twice_writes_once_and_the_file_gets_everything(own_log, capsys, tmp_path):
    log.configure()
    log.configure(-1, log_file=tmp_path / "log.txt")

    log.get_logger("x").debug("hidden")
    log.get_logger("x").error("shown")

    assert capsys.readouterr().err == "error: shown\n"
    assert "DEBUG episome.x: hidden" in (tmp_path / "log.txt").read_text()


# -- resources -----------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8 cores and 16 GiB whose files the test writes."""
    monkeypatch.setattr(resources, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    gib = 2**20
    write(proc__meminfo=f"MemTotal: {16 * gib} kB\nMemAvailable: {12 * gib} kB\n")
    return write


def test_resources_without_cgroup_are_those_of_the_machine(machine):
    assert resources.cpu_count() == 8
    assert resources.memory_limit() == 16 * 2**30
    assert resources.available_memory() == 12 * 2**30


def test_resources_obey_cgroup_2_and_its_parents(machine):
    machine(
        proc__self__cgroup="0::/job/step\n",
        cgroup__job__cpu_dot_max="150000 100000\n",
        cgroup__job__step__cpu_dot_max="max 100000\n",
        cgroup__job__memory_dot_max=str(4 * 2**30),
        cgroup__job__memory_dot_current=str(3 * 2**30),
        cgroup__job__memory_dot_stat=f"anon 5\ninactive_file {2**30}\n",
        cgroup__job__step__memory_dot_max="max\n",
    )

    assert resources.cpu_count() == 2
    assert resources.memory_limit() == 4 * 2**30
    assert resources.available_memory() == 2 * 2**30


def test_resources_obey_cgroup_1(machine):
    machine(
        proc__self__cgroup="5:cpu,cpuacct:/\n6:memory:/\n",
        cgroup__cpu__cpu_dot_cfs_quota_us="100000",
        cgroup__cpu__cpu_dot_cfs_period_us="100000",
        cgroup__memory__memory_dot_limit_in_bytes=str(2**30),
        cgroup__memory__memory_dot_usage_in_bytes=str(2**29),
    )

    assert resources.cpu_count() == 1
    assert resources.memory_limit() == 2**30
    assert resources.available_memory() == 2**29


def test_memory_of_this_process_is_known():
    assert 0 < resources.used_memory() <= resources.memory_limit()
    assert resources.peak_memory() > 2**20


@pytest.fixture
def threads_are_put_back(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "2"))
    yield
    resources.set_threads()


def test_set_threads_sets_what_is_imported(threads_are_put_back, monkeypatch):
    called = []
    torch = SimpleNamespace(set_num_threads=lambda n: called.append(("torch", n)))
    config = SimpleNamespace(NUMBA_NUM_THREADS=2)
    numba = SimpleNamespace(config=config, set_num_threads=lambda n: called.append(("numba", n)))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "numba", numba)

    assert resources.set_threads(3) == 3

    # In this order: numba may set the threads of an OpenMP that both share.
    assert called == [("numba", 2), ("torch", 3)]
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.undo()


_USES_NUMBA = """
import torch
from episome import resources
{first}
resources.set_threads(1)
import numba
import numpy as np

@numba.njit(parallel=True)
def total(x):
    out = 0.0
    for i in numba.prange(len(x)):
        out += x[i]
    return out

assert total(np.ones(9)) == 9
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""


@pytest.mark.parametrize("first", ["import numba", ""])
def test_numba_leaves_the_threads_of_torch_alone(first):
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    code = _USES_NUMBA.format(first=first)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("n", [0, -1, True, 1.0])
def test_set_threads_of_a_wrong_number_is_refused(n):
    with pytest.raises(UsageError, match="number of threads"):
        resources.set_threads(n)


def test_paths_of_the_system_are_the_real_ones():
    assert Path("/sys/fs/cgroup") == resources.CGROUP


# -- words of messages ---------------------------------------------------------------------------


def test_near_names_come_first_and_case_is_the_last_way_to_be_near():
    names = ["donor_id", "cell_type", "cell_types", "Tissue"]

    assert near_names("cell_typo", names) == ["cell_type", "cell_types"]
    assert near_names("TISSUE", names) == ["Tissue"]
    assert near_names("x", names) == []
    assert near_names("cell_typo", names, n=1) == ["cell_type"]


def test_a_question_names_what_is_near_or_nothing():
    assert did_you_mean("labl", ["label", "labels"]) == "did you mean `label` or `labels`"
    assert did_you_mean("x", ["label"]) == ""


def test_an_argument_is_named_with_its_option():
    assert with_option("max_epochs") == "max_epochs (--max-epochs)"
    assert with_option("n_models") == "n_models (--ensemble)"
    assert with_option("n_steps") == "n_steps"
