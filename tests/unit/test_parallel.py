"""What is refused before several processes start, and that a process alone is left as it was."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from components import parallel
from components.errors import UserError


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", ""])
def test_a_count_that_is_none_is_refused(asked, monkeypatch):
    monkeypatch.setenv("KINTSUGI_PROCESSES", asked)
    with pytest.raises(UserError, match="must be a count of processes"), parallel.together(["train_vqvae", "brick"]):
        pass


def test_more_processes_than_devices_are_refused(monkeypatch):
    monkeypatch.setenv("KINTSUGI_PROCESSES", "4")
    monkeypatch.setattr(parallel, "find_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="4 processes need as many CUDA"), parallel.together(["train_vqvae", "brick"]):
        pass


def test_a_batch_is_shared_whole_and_without_overlap_or_refused(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shares.append(parallel.share(np.arange(12)))
    assert [len(each) for each in shares] == [4, 4, 4]
    # `whole` puts them together again like this
    assert (np.stack(shares, 1).ravel() == np.arange(12)).all()
    with pytest.raises(UserError, match="a batch of 13 has no 3 equal parts"):
        parallel.share(np.arange(13))


def test_processes_draw_apart_and_again_the_same(monkeypatch):
    def drawn(rank, step):
        monkeypatch.setattr(parallel, "rank", lambda: rank)
        parallel.draw_apart(7, step)
        return torch.rand(3).tolist()

    torch.manual_seed(0)
    expected = torch.rand(3).tolist()
    torch.manual_seed(0)
    assert drawn(0, 5) == expected  # the first goes on with the state of the checkpoint
    places = [(rank, step) for rank in (1, 2) for step in (5, 6)]
    values = [drawn(*place) for place in places]
    assert len({tuple(each) for each in values}) == 4
    assert [drawn(*place) for place in places] == values


def test_alone_everything_is_what_it_was():
    assert not dist.is_initialized() and parallel.size() == 1 and parallel.rank() == 0
    x = torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(parallel.variance(x), x.var())
    assert parallel.whole(x) is x and parallel.total(x) is x and parallel.agreed(x) is x
    assert parallel.mean({"loss": 0.1}) == {"loss": 0.1}
