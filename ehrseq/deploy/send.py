"""`ehrseq send`: bundles of predictions to a FHIR server, each a transaction; sent again, they change nothing."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from ehrseq.core.errors import ConfigError, ExitCode, SourceError

TOKEN = "EHRSEQ_FHIR_TOKEN"
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_CONTENT = "application/fhir+json"


class ServerError(SourceError):
    """The server refused or did not answer."""


class TryAgainError(ServerError):
    """The same command may succeed later."""

    exit_code = ExitCode.TEMPORARY


@dataclass(frozen=True)
class Sent:
    """How many bundles and resources the server has taken."""

    url: str
    bundles: int
    created: int
    updated: int

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "out": self.url,
            "made": {"bundles": self.bundles, "created": self.created, "updated": self.updated},
        }

    def __rich__(self) -> Text:
        """For people."""
        return Text(
            f"{self.url}: {self.bundles} bundles, {self.created} resources created, {self.updated} were there"
        )


def send(predictions: Path, url: str, *, timeout: float = 60) -> Sent:
    """POST every bundle of a prediction run (its `bundles/`, or the folder above) to the base `url` of a server.

    A bearer token is taken from the environment, EHRSEQ_FHIR_TOKEN. Stops at the first bundle that is refused as a
    whole or in part. Raises: ConfigError if there are no bundles; ServerError (exit 3) if the server refuses,
    TryAgainError (exit 75) if it does not answer.
    """
    import httpx

    files = _bundles(Path(predictions))
    token = os.environ.get(TOKEN)
    headers = {"Content-Type": _CONTENT, "Accept": _CONTENT} | (
        {"Authorization": f"Bearer {token}"} if token else {}
    )
    created = updated = 0
    with httpx.Client(headers=headers, timeout=timeout) as client:
        for number, path in enumerate(files):
            done = f"{number} of {len(files)} bundles are there; send again, nothing is doubled"
            try:
                response = client.post(url, content=path.read_bytes())
            except httpx.TransportError as error:
                raise TryAgainError(f"{url}: no answer ({type(error).__name__}). {done}.") from error
            if response.status_code in _TEMPORARY:
                raise TryAgainError(f"{url}: status {response.status_code} for {path.name}. {done}.")
            if not response.is_success:
                raise ServerError(
                    f"{url}: refused {path.name} with status {response.status_code}; a transaction is taken whole or "
                    f"not at all. {done}."
                )
            new, old = _taken(url, path, response, done)
            created, updated = created + new, updated + old
    return Sent(url, len(files), created, updated)


def _bundles(folder: Path) -> list[Path]:
    for place in (folder, folder / "bundles", folder / "predictions" / "bundles"):
        if found := sorted(place.glob("[0-9]*.json")):
            return found
    raise ConfigError(f"{folder}: holds no bundles. Make them with `ehrseq predict … --format fhir`.")


def _taken(url: str, path: Path, response: Any, done: str) -> tuple[int, int]:
    """Entries created and updated. Raises: ServerError if the answer is not that all were taken."""
    asked = len(json.loads(path.read_bytes())["entry"])
    try:
        entries = response.json()["entry"]
        status = [str(entry["response"]["status"])[:3] for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"{url}: did not answer {path.name} with a transaction-response. {done}."
        ) from error
    good = sum(code in ("200", "201", "204") for code in status)
    if good != asked or len(status) != asked:
        raise ServerError(
            f"{url}: took {good} of the {asked} entries of {path.name}: it does not treat a transaction as one. Look "
            f"at its log, then send again: what is there is replaced by the same. {done}."
        )
    return status.count("201"), asked - status.count("201")
