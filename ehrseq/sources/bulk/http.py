"""Requests to allowed hosts only: redirects checked, the token kept at home, failures waited out."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import httpx

import ehrseq
from ehrseq.core.errors import ConfigError, SourceError
from ehrseq.sources.bulk.errors import ServerError
from ehrseq.sources.bulk.hosts import Hosts, shown
from ehrseq.sources.bulk.waiting import Clock, Waits

_REDIRECTS, _MOST_HOPS = (301, 302, 303, 307, 308), 5
_LARGEST_BODY = 64 << 20  # of a manifest, a token, a message
_ASK = httpx.Timeout(300, connect=30)  # a server may collect for minutes before it accepts an export
_STREAM = httpx.Timeout(60, connect=30)


class Tokens(Protocol):
    """Where access tokens come from."""

    def bearer(self, stale: str | None = None) -> str:
        """A token that is valid now, and is not `stale`."""


@dataclass(frozen=True)
class Answer:
    """A whole answer: status, headers (names in any case), body."""

    status: int
    headers: httpx.Headers
    body: bytes


def is_final(answer: Answer) -> bool:
    """Whether asking again would give the same: all but overload, time-outs and faults of the server."""
    return answer.status not in (408, 425, 429) and (answer.status < 500 or answer.status == 501)


class Http:
    """A client of one FHIR server. Use as a context manager; threads may share it."""

    def __init__(self, hosts: Hosts, clock: Clock, patience: float) -> None:
        self.hosts, self.clock, self.patience = hosts, clock, patience
        self.tokens: Tokens | None = None
        self._client = httpx.Client(
            headers={"User-Agent": f"ehrseq/{ehrseq.__version__}"}, follow_redirects=False
        )
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs, signatures included

    def __enter__(self) -> "Http":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def waits(self, what: str) -> Waits:
        """Waits for something that fails, as long as the user's patience allows."""
        return Waits(what, self.patience, self.clock)

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        what: str,
        headers: Mapping[str, str],
        authorised: bool = False,
        form: Mapping[str, str] | None = None,
        timeout: httpx.Timeout = _STREAM,
    ) -> Iterator[httpx.Response]:
        """One answer, whose body is still to come. With `authorised`, the server itself is shown the access token,
        and a new one if it refuses the first. Raises: httpx.RequestError; ConfigError for a host not allowed.
        """
        stale: str | None = None
        for _ in range(_MOST_HOPS + 2):
            self.hosts.check(url, what)
            token = None
            if authorised and self.tokens is not None and self.hosts.owns(url):
                token = self.tokens.bearer(stale)
            bearer = {"Authorization": f"Bearer {token}"} if token else {}
            request = self._client.build_request(
                method, url, headers={**headers, **bearer}, data=dict(form) if form else None, timeout=timeout
            )
            response = self._client.send(request, stream=True)
            try:
                if response.status_code in _REDIRECTS and "location" in response.headers:
                    url = self._redirected(method, response, what)
                elif response.status_code == 401 and token and stale is None:
                    stale = token
                else:
                    yield response
                    return
            finally:
                response.close()
        raise ServerError(f"{what}: {shown(url)} redirects more than {_MOST_HOPS} times.")

    def _redirected(self, method: str, response: httpx.Response, what: str) -> str:
        if method != "GET":
            raise ConfigError(
                f"{what}: {shown(str(response.url))} redirects a {method}. Ask for its right address."
            )
        target = str(response.url.join(response.headers["location"]))
        self.hosts.check(target, f"{what}: a redirect")
        return target

    def ask(
        self,
        method: str,
        url: str,
        *,
        what: str,
        headers: Mapping[str, str],
        authorised: bool = True,
        form: Callable[[], Mapping[str, str]] | None = None,
        final: Callable[[Answer], bool] = is_final,
        waits: Waits | None = None,
    ) -> Answer:
        """The first answer that is `final`. Raises: ServerError when there is none in time."""
        waits = waits or self.waits(what)
        while True:
            try:
                with self.open(
                    method, url, what=what, headers=headers, authorised=authorised, form=form() if form else None,
                    timeout=_ASK,
                ) as response:  # fmt: skip
                    answer = Answer(response.status_code, response.headers, _body(response, what))
            except httpx.RequestError as error:
                waits.again(None, lost(error, url))
                continue
            if final(answer):
                return answer
            waits.again(answer.headers, f"{shown(url)} answers {answer.status}")


def lost(error: httpx.RequestError, url: str) -> str:
    """Why there was no answer. Raises: ConfigError where time does not help: a certificate that is not trusted."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        raise ConfigError(
            f"{shown(url)}: its certificate is not trusted here. If it is your hospital's own authority, name its file "
            "in SSL_CERT_FILE."
        ) from error
    return f"{shown(url)} gives no answer ({type(error).__name__})"


def _body(response: httpx.Response, what: str) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise SourceError(
                f"{what}: the answer is larger than {_LARGEST_BODY >> 20} MB. Expected a short message."
            )
    return bytes(body)
