"""The sign of life that ranks give each other, two in one process, at 25 times the speed."""

from __future__ import annotations

import time

import pytest
from torch.distributed import TCPStore

from vdvae_patch.train import heartbeat
from vdvae_patch.train.heartbeat import Heartbeat

pytestmark = pytest.mark.medium

FAST = 0.02


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    monkeypatch.setattr(heartbeat, "TICK_SECONDS", FAST)
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def listen(store: TCPStore, rank: int, said: list[str]) -> Heartbeat:
    return Heartbeat(store, rank, 2, "here", on_loss=said.append)


def test_a_rank_that_has_not_come_yet_is_not_gone(store: TCPStore) -> None:
    said: list[str] = []
    first = listen(store, 0, said)
    time.sleep(4 * heartbeat.SILENT_TICKS * FAST)
    assert not store.check([heartbeat._VERDICT])
    second = listen(store, 1, said)
    time.sleep(2 * heartbeat.SILENT_TICKS * FAST)
    second.close()  # and says that it is done
    first.close()
    assert said == []


def test_a_rank_that_was_heard_and_falls_silent_is_named(store: TCPStore) -> None:
    said: list[str] = []
    store.set(heartbeat._key(1), "1")
    first = listen(store, 0, said)
    assert first._known.wait(30)
    assert first.verdict is not None
    assert first.verdict.startswith("rank 1 is gone: no sign of it for ")
    first.close()


def test_ranks_that_all_stand_still_end_and_say_in_which_line(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDVAE_PATCH_HANG_SECONDS", str(20 * FAST))
    said: list[str] = []
    ranks = [listen(store, rank, said) for rank in (0, 1)]
    for _ in range(20):  # no rank is behind for long
        for rank in ranks:
            rank.mark()
        time.sleep(FAST)
    assert not store.check([heartbeat._VERDICT])
    assert all(rank._known.wait(60) for rank in ranks)
    verdict = ranks[0].verdict
    assert verdict is not None
    assert verdict.startswith("no rank has got on for 0.4 s or more: rank 0 is at ")
    assert "threading.py" in verdict  # where this test waits
    for rank in ranks:
        rank.close()


def test_one_rank_alone_that_stands_still_is_slow(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDVAE_PATCH_HANG_SECONDS", str(10 * FAST))
    said: list[str] = []
    first, second = (listen(store, rank, said) for rank in (0, 1))
    for _ in range(3):
        first.mark()
        second.mark()
        time.sleep(FAST)
    for _ in range(80):
        first.mark()
        time.sleep(FAST)
    assert not store.check([heartbeat._VERDICT])
    second.close()
    first.close()
    assert said == []
