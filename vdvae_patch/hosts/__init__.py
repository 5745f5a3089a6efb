"""Find, fetch, verify and import the code bases that are patched, each isolated from all else.

host = load_host("vdvae")                           # the embedded one
host = load_host("vdvae", "genuine")                # what `upstream fetch vdvae` left in the cache
host = load_host("vdvae", "~/src/vdvae")            # a checkout, verified against the manifest
model = host.build(hparams)
"""

from vdvae_patch.hosts.discovery import HOSTS, HostRegistry, load_entry_file
from vdvae_patch.hosts.entry import HostEntry
from vdvae_patch.hosts.host import Host, Origin
from vdvae_patch.hosts.load import load_entry, load_host
from vdvae_patch.hosts.manifest import Upstream, get_upstream, upstreams

__all__ = [
    "HOSTS",
    "Host",
    "HostEntry",
    "HostRegistry",
    "Origin",
    "Upstream",
    "get_upstream",
    "load_entry",
    "load_entry_file",
    "load_host",
    "upstreams",
]
