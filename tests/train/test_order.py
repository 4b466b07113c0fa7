"""The order of the rows depends on seed, batch and epoch alone; one process takes one GPU."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.train.trainer import Order, use_one_gpu

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 2**31))
def test_each_epoch_has_every_row_once_in_the_order_of_torch_s_loader(lengths, batch, seed):
    from transformers.trainer_pt_utils import LengthGroupedSampler

    sampler = LengthGroupedSampler(batch, lengths=lengths)
    loader = torch.utils.data.DataLoader(range(len(lengths)), batch_size=1, sampler=sampler)
    torch.manual_seed(seed)
    read = [[int(row) for row in loader] for _ in range(3)]
    order, epochs = Order(lengths, batch, seed), []
    for order.epoch in range(3):
        epochs.append(list(order))
    assert epochs == read
    assert all(sorted(rows) == list(range(len(lengths))) for rows in epochs)
    order.epoch = 1  # as after a resume: what was read before does not matter
    assert list(order) == epochs[1]


def test_several_processes_get_as_many_rows_and_the_fillers_come_last():
    order = Order([3, 1, 2], 2, seed=0, filler=1)
    assert len(order) == 4 and list(order) == [*Order([3, 1, 2], 2, seed=0), 3]


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, "0"), ({"CUDA_VISIBLE_DEVICES": "2,3"}, "2"), ({"CUDA_VISIBLE_DEVICES": ""}, ""),
     ({"CUDA_VISIBLE_DEVICES": "2,3", "WORLD_SIZE": "2"}, "2,3")],
)  # fmt: skip
def test_a_process_without_a_launcher_sees_the_first_of_its_gpus(monkeypatch, before, after):
    for name in ("CUDA_VISIBLE_DEVICES", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # so that nothing is left behind
    use_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == after
