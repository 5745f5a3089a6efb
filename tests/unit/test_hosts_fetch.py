"""Fetching clones a real git repository at exactly the pinned commit; verifying says what differs from it."""

from __future__ import annotations

import hashlib
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import git
import pytest

from vdvae_patch.cli import upstream as command
from vdvae_patch.errors import HostError, InvalidValueError, UnknownNameError
from vdvae_patch.hosts import manifest
from vdvae_patch.hosts.fetch import cached_path, fetch, verify_cached
from vdvae_patch.hosts.manifest import Upstream
from vdvae_patch.hosts.pinned import inspect_checkout, verify
from vdvae_patch.machine import CACHE_VARIABLE

OLD = {"vae.py": "import utils\nVALUE = 'pinned'\n", "utils.py": "NAME = 'utils'\n", "README": "not pinned\n"}


@dataclass(frozen=True)
class Remote:
    """A repository whose branch has moved on since the commit that is pinned."""

    path: Path
    pinned: Upstream
    latest: str


@pytest.fixture(autouse=True)
def git_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Git reads this file and no other of the machine's."""
    file = tmp_path / "gitconfig"
    file.write_text("[init]\n\tdefaultBranch = main\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(file))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return file


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    path = tmp_path / "remote"
    author = git.Actor("Somebody", "somebody@example.org")

    def commit(files: dict[str, str]) -> str:
        for name, text in files.items():
            (path / name).write_text(text)
        repository.index.add(list(files))
        return repository.index.commit("Change", author=author, committer=author).hexsha

    with git.Repo.init(path) as repository:
        pinned = commit(OLD)
        latest = commit({"vae.py": "VALUE = 'latest'\n"})
    files = {name: hashlib.sha256(OLD[name].encode()).hexdigest() for name in ("vae.py", "utils.py")}
    upstream = Upstream("toy", path.as_uri(), pinned, "MIT", files, embedded="toys.vae", note="for tests")
    return Remote(path, upstream, latest)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def checkout(remote: Remote, tmp_path: Path) -> Path:
    """A full clone of somebody's, at the pinned commit."""
    with git.Repo.clone_from(remote.pinned.url, tmp_path / "mine") as repository:
        repository.git.checkout("--quiet", remote.pinned.commit)
    return tmp_path / "mine"


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "upstream").iterdir())


def test_fetch_checks_out_exactly_the_pinned_commit_and_verifies_it(remote: Remote, cache: Path) -> None:
    found = fetch(remote.pinned, cache)
    assert found.path == cached_path(remote.pinned, cache).resolve()
    assert found.path.name == f"toy-{remote.pinned.commit[:12]}"
    assert found.commit == remote.pinned.commit
    assert found.verified
    assert (found.path / "vae.py").read_text() == OLD["vae.py"]
    assert left_in(cache) == [found.path.name]


def test_what_was_fetched_is_used_again_without_the_remote(remote: Remote, cache: Path) -> None:
    first = fetch(remote.pinned, cache)
    shutil.rmtree(remote.path)
    assert fetch(remote.pinned, cache) == first == verify_cached(remote.pinned, cache)


def test_a_server_that_refuses_single_commits_is_cloned_whole(
    remote: Remote, cache: Path, git_configuration: Path
) -> None:
    git_configuration.write_text("[protocol]\n\tversion = 0\n")
    with git.Repo.init(cache / "probe") as probe, pytest.raises(git.GitCommandError, match="unadvertised object"):
        probe.git.fetch(remote.pinned.url, remote.pinned.commit)
    assert fetch(remote.pinned, cache).commit == remote.pinned.commit


def test_a_commit_that_the_remote_lacks_is_one_line_and_leaves_nothing(remote: Remote, cache: Path) -> None:
    with pytest.raises(HostError, match=f"has no commit {'c' * 40}; the embedded toys.vae needs no network") as caught:
        fetch(replace(remote.pinned, commit="c" * 40), cache)
    assert "\n" not in str(caught.value)
    assert left_in(cache) == []


def test_a_manifest_that_does_not_fit_the_commit_leaves_nothing(remote: Remote, cache: Path) -> None:
    wrong = replace(remote.pinned, files={**remote.pinned.files, "vae.py": "d" * 64})
    with pytest.raises(HostError, match=r"vae\.py has SHA-256 \w{16}, expected d{16}; the manifest does not"):
        fetch(wrong, cache)
    assert left_in(cache) == []


@pytest.mark.parametrize("url", ["file:///no/such/repository", "https://host.invalid/vdvae"])
def test_offline_it_says_so_and_names_the_embedded_one(remote: Remote, cache: Path, url: str) -> None:
    with pytest.raises(HostError) as caught:
        fetch(replace(remote.pinned, url=url), cache)
    message = str(caught.value)
    assert message.startswith(f"cannot fetch 'toy' from {url} (offline?): fatal: ")
    assert message.endswith("the embedded toys.vae needs no network (leave --upstream out)")
    assert "\n" not in message
    assert left_in(cache) == []


def test_offline_without_an_embedded_one_it_asks_for_a_checkout(remote: Remote, cache: Path) -> None:
    with pytest.raises(HostError, match="no embedded stand-in; give a checkout you have with --upstream PATH"):
        fetch(replace(remote.pinned, url="file:///no/such/repository", embedded=None), cache)


def test_a_remote_with_a_cut_off_object_is_refused_and_leaves_nothing(remote: Remote, cache: Path) -> None:
    with git.Repo(remote.path) as repository:
        blob = repository.commit(remote.pinned.commit).tree["vae.py"].hexsha
    loose = remote.path / ".git" / "objects" / blob[:2] / blob[2:]
    loose.chmod(0o644)
    loose.write_bytes(loose.read_bytes()[:10])
    with pytest.raises(HostError, match="cannot fetch 'toy'"):
        fetch(remote.pinned, cache)
    assert left_in(cache) == []


def test_a_server_that_never_answers_is_given_up(remote: Remote, cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/vdvae"
        with pytest.raises(HostError, match=r"cannot fetch 'toy' .*Timeout: .* did not complete in 0\.5 secs"):
            fetch(replace(remote.pinned, url=url), cache, timeout=0.5)
    assert left_in(cache) == []


def test_hooks_of_the_users_template_do_not_run(
    remote: Remote, cache: Path, tmp_path: Path, git_configuration: Path
) -> None:
    hook = tmp_path / "template" / "hooks" / "post-checkout"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    hook.chmod(0o755)
    template, hooks = hook.parent.parent, hook.parent
    git_configuration.write_text(f"[init]\n\ttemplateDir = {template}\n[core]\n\thooksPath = {hooks}\n")
    with git.Repo.clone_from(remote.pinned.url, tmp_path / "plain"):
        assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    fetch(remote.pinned, cache)
    assert not (tmp_path / "ran").exists()


def test_fetching_from_a_git_hook_leaves_that_hooks_repository_alone(
    remote: Remote, cache: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with git.Repo(checkout) as mine:
        mine.git.checkout("--quiet", "main")
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(checkout))
    fetch(remote.pinned, cache)
    assert (checkout / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"
    assert "latest" in (checkout / "vae.py").read_text()


def test_several_processes_may_fetch_at_once(remote: Remote, cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fetch(remote.pinned, cache), range(4)))
    assert len({verification.path for verification in found}) == 1
    assert left_in(cache) == [found[0].path.name]


def test_a_file_that_was_changed_since_it_was_fetched_is_named(remote: Remote, cache: Path) -> None:
    path = fetch(remote.pinned, cache).path
    (path / "vae.py").write_text("VALUE = 'mine'\n")
    for again in (fetch, verify_cached):
        with pytest.raises(HostError, match=r"vae\.py has SHA-256 .*delete that folder and run: .*upstream fetch toy"):
            again(remote.pinned, cache)
    assert "mine" in (path / "vae.py").read_text()


def test_a_cache_that_cannot_be_written_is_one_line(remote: Remote, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(HostError, match=r"cannot be written: .*; set VDVAE_PATCH_CACHE"):
        fetch(remote.pinned, cache)


def test_a_checkout_at_the_pinned_commit_is_verified(remote: Remote, checkout: Path) -> None:
    (checkout / "README").write_text("a changed file that is never imported")
    found = verify(checkout, remote.pinned)
    assert found.commit == remote.pinned.commit
    assert found.digests == remote.pinned.files


def test_a_folder_without_git_is_verified_by_its_files(remote: Remote, checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    assert verify(checkout, remote.pinned).commit is None


def test_another_commit_is_named_even_if_the_files_are_the_same(remote: Remote, checkout: Path) -> None:
    with git.Repo(checkout) as repository:
        repository.git.checkout("--quiet", "main")
        repository.git.restore("--source", remote.pinned.commit, "vae.py")
    with pytest.raises(HostError) as caught:
        verify(checkout, remote.pinned)
    message = str(caught.value)
    assert f"it is at commit {remote.latest}, expected {remote.pinned.commit}" in message
    assert "--allow-modified-upstream (allow_modified=True)" in message
    assert "SHA-256" not in message
    assert "\n" not in message


def test_a_changed_and_a_missing_file_are_both_named(remote: Remote, checkout: Path) -> None:
    (checkout / "vae.py").write_text("VALUE = 'mine'\n")
    (checkout / "utils.py").unlink()
    seen = hashlib.sha256(b"VALUE = 'mine'\n").hexdigest()
    expected = remote.pinned.files["vae.py"]
    with pytest.raises(HostError, match=r"utils\.py is missing") as caught:
        verify(checkout, remote.pinned)
    assert f"vae.py has SHA-256 {seen[:16]}, expected {expected[:16]}" in str(caught.value)


@pytest.mark.parametrize("content", ["gitdir: /gone/elsewhere\n", ""])
def test_a_git_folder_that_cannot_be_read_counts_as_a_difference(remote: Remote, checkout: Path, content: str) -> None:
    shutil.rmtree(checkout / ".git")
    (checkout / ".git").write_text(content)
    assert inspect_checkout(checkout, remote.pinned).commit is None
    with pytest.raises(HostError, match=f"its commit cannot be read, expected {remote.pinned.commit}"):
        verify(checkout, remote.pinned)


def test_a_path_that_is_no_folder_is_refused(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="does not exist"):
        verify(tmp_path / "nowhere", remote.pinned)
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match="is a file, not a folder"):
        verify(tmp_path / "file", remote.pinned)


@pytest.fixture
def manifest_of_toys(remote: Remote, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    monkeypatch.setattr(manifest, "_own_manifest", lambda: {"toy": remote.pinned})
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    return remote.pinned


def test_the_command_lists_fetches_and_verifies(
    manifest_of_toys: Upstream, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(cached_path(manifest_of_toys, cache))

    assert command.run(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(text in listed for text in ("toy", manifest_of_toys.commit[:12], "MIT", "toys.vae", "for tests"))
    assert folder not in listed

    assert command.run(["fetch", "toy"]) == 0
    fetched = capsys.readouterr().out
    assert manifest_of_toys.commit in fetched
    assert folder in fetched.splitlines()

    assert command.run(["verify", "toy"]) == 0
    assert folder in capsys.readouterr().out.splitlines()
    assert command.run(["list"]) == 0
    assert folder in capsys.readouterr().out

    Path(folder, "vae.py").write_text("")
    assert command.run(["list"]) == 0
    assert f"{folder} (changed)" in capsys.readouterr().out


def test_the_command_verifies_a_checkout_of_the_users(
    manifest_of_toys: Upstream, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(["verify", "toy", "--upstream", str(checkout)]) == 0
    assert str(checkout) in capsys.readouterr().out.splitlines()
    (checkout / "vae.py").write_text("")
    with pytest.raises(HostError, match=r"vae\.py has SHA-256"):
        command.run(["verify", "toy", "--upstream", str(checkout)])


def test_the_command_refuses_what_it_does_not_know(manifest_of_toys: Upstream) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'toy'"):
        command.run(["fetch", "toyy"])
    with pytest.raises(HostError, match="'toy' was not fetched; run: python -m vdvae_patch upstream fetch toy"):
        command.run(["verify", "toy"])
    with pytest.raises(InvalidValueError, match=r"remove.*Available subcommands: list, fetch, verify"):
        command.run(["remove", "toy"])
