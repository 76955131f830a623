from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from episome.nn import TabNet, _numba, entmax15


@pytest.fixture(autouse=True)
def several_threads(one_thread, monkeypatch):
    torch.set_num_threads(3)
    monkeypatch.setattr(_numba, "_WORK_PER_TASK", 500)


def _in_worker(x):
    torch.set_num_threads(1)  # as torch's own loader workers do; its thread pool dies in a fork
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


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_kernels_any_number_of_threads_are_bit_identical(n_threads, rng):
    x = torch.randn(101, 70, generator=rng)
    expected = entmax15(x)

    torch.set_num_threads(n_threads)

    assert torch.equal(entmax15(x), expected)


def test_tabnet_any_number_of_threads_gives_same_gradients(rng):
    x = torch.rand(40, 90, generator=rng, dtype=torch.float64)
    x = x * (torch.rand(40, 90, generator=rng) < 0.2)
    torch.manual_seed(0)
    net = TabNet(90, 3, n_d=8, n_a=4, n_steps=3, virtual_batch_size=16).double()
    gradients = []
    for n_threads in (1, 4):
        torch.set_num_threads(n_threads)
        net.zero_grad()
        net(x).logits.square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])

    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_kernel_error_in_a_thread_is_raised():
    def fail(start, stop):
        if start:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        _numba.run_rows(fail, 100, work=10**9)


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
        _numba.run_rows(mark, n_rows, seen, work=10**9)
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
