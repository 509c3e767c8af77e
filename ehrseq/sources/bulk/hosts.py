"""Which hosts may be asked, and which one may see the access token."""

from dataclasses import dataclass
from ipaddress import ip_address

import httpx

from ehrseq.core.errors import ConfigError

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Hosts:
    """The server at `base`, and hosts (`H` or `H:PORT`) that may hold its files or give its tokens.

    >>> hosts = Hosts("https://fhir.example/r4", ("files.example",))
    >>> hosts.owns("https://fhir.example/x"), hosts.owns("https://files.example/x")
    (True, False)
    """

    base: str
    allowed: tuple[str, ...] = ()

    def check(self, url: str, what: str) -> None:
        """Refuse a URL on another host, of another scheme than https (http on loopback), or with a password.

        Raises: ConfigError. The URL is parsed by the library that will open it, so both mean the same host.
        """
        parsed = _parsed(url, what)
        if parsed.scheme not in _PORTS or not parsed.host:
            raise ConfigError(f"{what}: {shown(url)} is no https URL. Nothing else is followed.")
        if parsed.userinfo:
            raise ConfigError(
                f"{what}: {shown(url)} holds a user name or password. Use --client-id and --key."
            )
        if parsed.scheme == "http" and not is_loopback(parsed.host):
            raise ConfigError(f"{what}: {shown(url)} is not encrypted. Expected https.")
        if not self.owns(url) and not {parsed.host, _authority(parsed)} & {
            name.lower() for name in self.allowed
        }:
            raise ConfigError(
                f"{what}: {shown(url)} is on host {_authority(parsed)}, which is not allowed. If the server's "
                f"operator says that it belongs to the server, add --allow-host {_authority(parsed)}."
            )

    def owns(self, url: str) -> bool:
        """Whether a URL has scheme, host and port of the server itself."""
        ours, theirs = httpx.URL(self.base), httpx.URL(url)
        return ours.scheme == theirs.scheme and _authority(ours) == _authority(theirs)


def shown(url: str) -> str:
    """A URL for messages: without password and query, which may hold a signature.

    >>> shown("https://me:secret@files.example:8443/a/1.ndjson?sig=abc")
    'https://files.example:8443/a/1.ndjson'
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return "(a damaged URL)"
    return str(parsed.copy_with(query=None, fragment=None, userinfo=b""))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("fhir.example")
    (True, True, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authority(url: httpx.URL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    port = url.port or _PORTS.get(url.scheme)
    return host if port == 443 else f"{host}:{port}"


def _parsed(url: str, what: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{what}: not a URL ({error}).") from error
