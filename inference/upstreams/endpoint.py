"""Where an upstream is and how patiently it is asked. Pure; no Django."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["BadAddress", "Endpoint", "Location", "address_refusal", "locate"]

# Addresses where clouds keep credentials for whoever asks, besides the link-local ranges.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)
MAX_URL_CHARS = 500


class BadAddress(ValueError):
    """The URL is not one we would call. The message says why."""


@dataclass(frozen=True, slots=True)
class Location:
    """A checked URL in parts. ``path`` begins with / and does not end with one ("" for the root)."""

    tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the Host header names them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One upstream. Times in seconds; ``max_concurrency`` and ``max_waiting`` are per gateway process.

    ``id`` is unique in the installation; ``name`` is what people see. ``guarded``: the address is a tenant's
    choice, so addresses of metadata services and of the installation itself are refused.
    """

    id: str
    name: str
    url: str
    model: str = ""
    api_key: str = field(default="", repr=False)
    weight: int = 1
    max_concurrency: int = 64
    max_waiting: int = 128
    wait_timeout_s: float = 10.0
    connect_timeout_s: float = 3.0
    first_byte_timeout_s: float = 120.0
    chunk_timeout_s: float = 30.0
    total_timeout_s: float = 600.0
    guarded: bool = False


def locate(url: str) -> Location:
    """Take a base URL (up to and including /v1) apart.

    Raises:
        BadAddress: not http or https, no host, user name or password or query in it, control characters.
    """
    if len(url) > MAX_URL_CHARS:
        raise BadAddress(f"The URL is longer than {MAX_URL_CHARS} characters.")
    if any(ord(char) < 33 or ord(char) > 126 for char in url):
        raise BadAddress("The URL holds spaces or characters outside ASCII.")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise BadAddress("The URL cannot be read; write it as https://host:port/v1.") from error
    if parts.scheme not in {"http", "https"}:
        raise BadAddress("The URL must begin with http:// or https://.")
    if not host:
        raise BadAddress("The URL names no host.")
    if parts.username is not None or parts.password is not None:
        raise BadAddress("The URL holds a user name or password; give the API key in its own field.")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise BadAddress("The URL must not have a query or fragment.")
    if port == 0:
        raise BadAddress("Port 0 cannot be called.")
    tls = parts.scheme == "https"
    return Location(tls, host, port or (443 if tls else 80), parts.path.rstrip("/"))


def address_refusal(
    address: str, port: int, *, own_ports: Iterable[int] = (), blocked: Iterable[str] = ()
) -> str:
    """Why a resolved address must not be called on a tenant's behalf; "" when it may.

    ``own_ports``: ports of the installation's own services, refused on this machine. ``blocked``: networks in
    CIDR form the operator refuses besides.
    """
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    if ip.is_link_local or ip in _METADATA:
        return "It is the address of a cloud's metadata service or link-local."
    if ip.is_multicast or ip.is_unspecified or (ip.is_reserved and not ip.is_loopback):
        return "It is not the address of one machine."
    if port in set(own_ports) and (ip.is_loopback or _is_own(str(ip))):
        return "It is a service of this installation."
    for text in blocked:
        try:
            network = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            return "The operator's list of refused networks cannot be read."  # so nothing may be called
        if ip.version == network.version and ip in network:
            return f"The operator refuses {network}."
    return ""


def _is_own(address: str) -> bool:
    """Whether the address is one of this machine's: only those can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
