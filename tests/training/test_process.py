"""A rank's process: memory that steps use again and again."""

from __future__ import annotations

import resource

import torch

from reproduce.training.process import prepare_process, timed_kernels

SIZE = 64 << 20  # 16384 pages, or 32 where the system gives huge ones unasked


def page_faults_of_a_large_tensor() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(SIZE, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_kept_for_the_next_step_and_given_back_before_the_next_run() -> None:
    prepare_process(torch.device("cpu"), threads=torch.get_num_threads())
    assert min(page_faults_of_a_large_tensor() for _ in range(4)) < 10  # once the heap has grown
    prepare_process(torch.device("cpu"), threads=torch.get_num_threads())
    assert page_faults_of_a_large_tensor() > 20


def test_kernels_are_timed_only_where_asked_and_never_where_they_must_be_deterministic() -> None:
    cudnn = torch.backends.cudnn
    prepare_process(torch.device("cpu"), threads=1)
    assert not cudnn.benchmark
    with timed_kernels(True):
        assert cudnn.benchmark
    assert not cudnn.benchmark, "validation takes the heuristics' choice"
    try:
        prepare_process(torch.device("cpu"), threads=1, deterministic=True)
        assert cudnn.deterministic
        assert torch.are_deterministic_algorithms_enabled()
        with timed_kernels(True):
            assert not cudnn.benchmark
    finally:
        prepare_process(torch.device("cpu"), threads=1)
    assert not torch.are_deterministic_algorithms_enabled(), "the next run of a kept worker is free again"
