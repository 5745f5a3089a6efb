"""Downloads go on where they stopped; archives are unpacked whole, inside their folder, or not at all."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_samples import FileServer, serving, tar_with

from vdvae_patch.data.archive import extract_folder
from vdvae_patch.data.download import download
from vdvae_patch.errors import DataError

BODY = np.random.RandomState(0).bytes(1_000_000)
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
NAME = "cifar-10-python.tar.gz"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_a_file_arrives_whole_with_a_progress_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FileServer(BODY)) as server:
        path = download(server.url, tmp_path, md5=MD5)
    assert path == tmp_path / NAME
    assert path.read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    printed = capsys.readouterr()
    assert "1.0/1.0 MB" in printed.err
    assert printed.out == ""


def test_a_file_that_is_there_is_not_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(BODY)
    with serving(FileServer(BODY)) as server:
        download(server.url, tmp_path, md5=MD5)
    assert server.asked == []


def test_a_connection_that_is_cut_is_taken_up_again_where_it_stopped(tmp_path: Path) -> None:
    with serving(FileServer(BODY, cuts=[300_000, 200_000])) as server:
        path = download(server.url, tmp_path, md5=MD5)
    assert server.asked == [None, "bytes=300000-", "bytes=500000-"]
    assert path.read_bytes() == BODY


def test_what_an_earlier_run_left_is_continued(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:700_000])
    with serving(FileServer(BODY)) as server:
        path = download(server.url, tmp_path, md5=MD5)
    assert server.asked == ["bytes=700000-"]
    assert path.read_bytes() == BODY


def test_a_server_that_gives_nothing_more_is_an_error_that_keeps_what_came(tmp_path: Path) -> None:
    with serving(FileServer(BODY, cuts=[300_000, 0])) as server:
        with pytest.raises(DataError, match=r"got 300,000 of 1,000,000 bytes\); 300,000 bytes are kept in .*\.part"):
            download(server.url, tmp_path, md5=MD5)
        assert download(server.url, tmp_path, md5=MD5).read_bytes() == BODY
    assert server.asked == [None, "bytes=300000-", "bytes=300000-"]


def test_a_server_without_ranges_starts_again_from_zero(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 400_000)
    with serving(FileServer(BODY, ranges=False)) as server:
        path = download(server.url, tmp_path, md5=MD5)
    assert server.asked == ["bytes=400000-"]
    assert path.read_bytes() == BODY


def test_a_part_that_is_whole_needs_no_more_bytes(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(BODY)
    with serving(FileServer(BODY)) as server:
        assert download(server.url, tmp_path, md5=MD5).read_bytes() == BODY
    assert server.asked == ["bytes=1000000-"]


def test_a_part_that_is_too_long_is_dropped(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(BODY + b"more")
    with serving(FileServer(BODY)) as server:
        assert download(server.url, tmp_path, md5=MD5).read_bytes() == BODY
    assert server.asked == ["bytes=1000004-", None]


def test_a_wrong_md5_is_refused_and_the_file_removed(tmp_path: Path) -> None:
    with (
        serving(FileServer(BODY[:-1] + b"?")) as server,
        pytest.raises(DataError, match=f"does not have MD5 {MD5} and was removed"),
    ):
        download(server.url, tmp_path, md5=MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_replaced(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(BODY[:1000])
    with serving(FileServer(BODY)) as server:
        assert download(server.url, tmp_path, md5=MD5).read_bytes() == BODY


def test_no_connection_is_one_line(tmp_path: Path) -> None:
    with serving(FileServer(BODY)) as server:
        url = server.url
    with pytest.raises(DataError, match=rf"download failed \(.*refused\); put the file in {tmp_path}, or say where"):
        download(url, tmp_path, md5=MD5)


def test_only_web_addresses_are_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(BODY)
    with pytest.raises(DataError, match="not a web address"):
        download(f"file://{tmp_path}/secret", tmp_path / "cache", md5=MD5)


def member(name: str, size: int = 10, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def test_a_folder_is_unpacked(tmp_path: Path) -> None:
    archive = tar_with(tmp_path / "a.tar.gz", [member("data", 0, tarfile.DIRTYPE), member("data/x", 7)])
    assert extract_folder(archive, tmp_path, "data", max_bytes=100) == tmp_path / "data"
    assert (tmp_path / "data" / "x").read_bytes() == bytes(7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz", "data"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (member("../outside"), "lies outside data/"),
        (member("data/../../outside"), "lies outside data/"),
        (member("/etc/outside"), "lies outside data/"),
        (member("data\\..\\outside"), "lies outside data/"),
        (member("other/x"), "lies outside data/"),
        (member("data/link", 0, tarfile.SYMTYPE, "/etc/passwd"), "is a link or a device"),
        (member("data/link", 0, tarfile.LNKTYPE, "data/x"), "is a link or a device"),
        (member("data/pipe", 0, tarfile.FIFOTYPE), "is a link or a device"),
        (member("data/big", 1000), "unpacks to more than 100 bytes"),
    ],
)
def test_a_member_that_does_not_belong_stops_everything(tmp_path: Path, bad: tarfile.TarInfo, says: str) -> None:
    archive = tar_with(tmp_path / "a.tar.gz", [member("data/x"), bad])
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(DataError, match=says):
        extract_folder(archive, into, "data", max_bytes=100)
    assert list(into.iterdir()) == []


def test_an_archive_without_the_folder_says_so(tmp_path: Path) -> None:
    archive = tar_with(tmp_path / "a.tar.gz", [])
    with pytest.raises(DataError, match="holds no file in a folder data"):
        extract_folder(archive, tmp_path, "data", max_bytes=100)


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_an_archive_that_is_cut_off_leaves_nothing_behind(tmp_path: Path, cut: int) -> None:
    archive = tmp_path / "a.tar.gz"
    (tmp_path / "x").write_bytes(BODY[:10_000])
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "x", arcname="data/x")
    archive.write_bytes(archive.read_bytes()[:cut])
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract_folder(archive, into, "data", max_bytes=100_000)
    assert list(into.iterdir()) == []
