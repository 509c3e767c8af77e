"""What is asked of a server: the level of an export, the types, since when."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from ehrseq.core.errors import ConfigError, closest
from ehrseq.fhir.elements import is_resource, resource_types

NDJSON = "application/fhir+ndjson"
_LEVEL = re.compile(r"^(.*?)/(Patient|Group/[A-Za-z0-9\-.]{1,64})$")


@dataclass(frozen=True)
class Request:
    """An export of the server at `base`: of the whole `system`, of every `Patient`, or of one `Group/ID`.

    `types`: resource types, sorted; none means all.
    """

    base: str
    level: str
    types: tuple[str, ...] = ()

    @classmethod
    def of(cls, url: str, types: Iterable[str] = ()) -> "Request":
        """The request of a URL: the server's base, or base/Patient, or base/Group/ID; `/$export` may follow.

        Raises: ConfigError for a URL with a query, or a type that R4B does not have.

        >>> Request.of("https://fhir.example/r4/Group/icu").level
        'Group/icu'
        """
        if "?" in url or "#" in url:
            raise ConfigError(
                f"{url.partition('?')[0]}: has a query. Give types by --type, a time by --since."
            )
        bare = url.rstrip("/").removesuffix("$export").rstrip("/")
        found = _LEVEL.match(bare)
        for name in types:
            if not is_resource(name):
                raise ConfigError(
                    f"--type {name}: FHIR R4B has no such resource.{closest(name, resource_types())}"
                )
        return cls(found[1] if found else bare, found[2] if found else "system", tuple(sorted(set(types))))

    def url(self, since: str | None) -> str:
        """The kick-off request.

        >>> Request.of("https://fhir.example/r4").url(None)
        'https://fhir.example/r4/$export?_outputFormat=application%2Ffhir%2Bndjson'
        """
        path = self.base if self.level == "system" else f"{self.base}/{self.level}"
        query = {"_outputFormat": NDJSON}
        if self.types:
            query["_type"] = ",".join(self.types)
        if since:
            query["_since"] = since
        return f"{path}/$export?{urlencode(query)}"

    def to_json(self) -> dict[str, Any]:
        """As plain values: two exports of the same can be laid over each other."""
        return {"url": self.base, "level": self.level, "types": list(self.types)}


def instant(text: str, what: str) -> datetime:
    """A FHIR instant as a time. Raises: ConfigError.

    >>> instant("2026-11-24T01:02:03Z", "--since").hour
    1
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ConfigError(f"{what}: no instant with a time zone. Expected e.g. 2026-11-24T01:02:03Z.")
    return found
