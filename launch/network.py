"""Which of a machine's networks leads to the other ranks."""

from __future__ import annotations

import socket
import struct
import sys

LOOPBACK = "lo"
_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
_IFREQ = struct.Struct("16s4x4s16x")


def interface_towards(address: str) -> str | None:
    """The network interface by which this machine reaches `address`, such as `eth0`; None to leave it to the library.

    Gloo, unless told, listens where the machine's own name leads. On many machines that is 127.0.0.1 or 127.0.1.1, and
    no other machine can reach it. None where `address` is this machine's loopback, where it has no IPv4 address, and on
    systems other than Linux.
    """
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # chooses a route; nothing is sent
            own = socket.inet_aton(probe.getsockname()[0])
            for _, name in socket.if_nameindex():
                try:
                    answer = fcntl.ioctl(probe, _SIOCGIFADDR, _IFREQ.pack(name.encode(), b""))
                except OSError:  # an interface without an IPv4 address
                    continue
                if _IFREQ.unpack(answer)[1] == own:
                    return name if name != LOOPBACK else None
        except OSError:  # no such name, or no way there: meeting the others will say so
            return None
    return None
