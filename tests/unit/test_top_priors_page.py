"""docs/top-priors.md: its blocks are one program, which prints what the page says, and its table has every prior."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from vdvae_patch.hosts import HOSTS
from vdvae_patch.hosts.entry import HostEntry
from vdvae_patch.top_priors import TOP_PRIORS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "top-priors.md").read_text()


def test_the_page_prints_what_it_says(page_program: Callable[[str], list[tuple[str, str, str]]]) -> None:
    for code, told, seen in page_program(PAGE):
        assert seen == told, code


def test_every_top_prior_is_in_the_table_in_a_form_that_can_be_written() -> None:
    for name in TOP_PRIORS:
        form = re.search(rf"^\| `({name}[^`]*)`", PAGE, flags=re.MULTILINE)
        assert form is not None, name
        TOP_PRIORS.get(form[1])


def test_the_table_of_the_readme_has_the_seams_of_every_host() -> None:
    said: dict[str, tuple[bool, ...]] = {}
    for line in (ROOT / "README.md").read_text().split("| host | scales | decoder |")[1].splitlines()[2:]:
        if not line.startswith("|"):
            break
        hosts, *seams = line.strip("|").split("|")
        said |= dict.fromkeys(re.findall(r"`(\w+)`", hosts), tuple(seam.strip() != "no" for seam in seams))
    own = [name for name in HOSTS.names() if type(HOSTS.get(name)).__module__.startswith("vdvae_patch.")]
    assert said.keys() == set(own)
    for name in own:
        entry = type(HOSTS.get(name))
        decoder = entry.decoder_seam is not HostEntry.decoder_seam
        assert said[name] == (True, decoder, decoder, entry.top_prior_seam is not HostEntry.top_prior_seam), name
