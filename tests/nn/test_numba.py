from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from episome.nn import _numba, entmax15


def _in_worker(x):
    out = entmax15(torch.from_numpy(x))
    return _numba.parallel_allowed(), out.numpy()


def test_parallel_allowed_main_process_is_true():
    assert _numba.parallel_allowed()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_kernels_in_worker_run_serially_and_agree(method):
    x = np.random.default_rng(0).normal(size=(200, 60)).astype(np.float32)
    expected = entmax15(torch.from_numpy(x))

    with multiprocessing.get_context(method).Pool(1) as pool:
        allowed, out = pool.apply(_in_worker, (x,))

    assert not allowed
    np.testing.assert_array_equal(out, expected.numpy())


def test_kernels_from_many_threads_agree(rng):
    x = torch.randn(300, 80, generator=rng)
    expected = entmax15(x)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: entmax15(x), range(12)))

    assert all(torch.equal(r, expected) for r in results)


def test_run_rows_any_number_of_rows_covers_each_once():
    def mark(start, stop, seen):
        seen[start:stop] += 1

    for n_rows in (0, 1, 15, 16, 33, 1000):
        seen = np.zeros(n_rows, int)
        _numba.run_rows(mark, n_rows, seen)
        assert (seen == 1).all()


def test_njit_without_cache_folder_still_compiles(tmp_path):
    code = (
        "import numba.core.caching as c\n"
        "def refuse(self): raise OSError('read-only')\n"
        "c._CacheLocator.ensure_cache_path = refuse\n"
        "import torch\n"
        "from episome.nn import entmax15\n"
        "print(round(float(entmax15(torch.tensor([2.0, 1.0, 0.0]))[0]), 3))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "0.831"


def test_numba_enabled_environment_zero_is_false(monkeypatch):
    monkeypatch.setenv("EPISOME_NUMBA", "0")

    assert not _numba.numba_enabled()


def test_package_import_does_not_import_torch():
    code = "import sys, episome.nn; print('torch' in sys.modules, 'numba' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]
