"""Persons, organizations, names, addresses and telecoms of a document."""

import hashlib
from collections.abc import Mapping

from lxml import etree

from ehrseq.sources.ccda.values import Columns, concept, identifier, identifiers, named, plain_text

_NAME_USE = {"L": "usual", "C": "official", "P": "nickname", "OR": "official"}
_USE = {"H": "home", "HP": "home", "HV": "temp", "WP": "work", "DIR": "work", "PUB": "work", "TMP": "temp",
        "BAD": "old", "MC": "mobile"}  # fmt: skip
_TELECOM = {"tel": "phone", "fax": "fax", "mailto": "email", "http": "url", "https": "url", "sms": "sms"}


class People:
    """Those who took part in one document. They are named by their id, or else by what is said of them."""

    def __init__(self, patient: etree._Element) -> None:
        self.practitioners: dict[str, Columns] = {}
        self.organizations: dict[str, Columns] = {}
        self._patient = {named(x) for x in identifiers(patient.iterfind("id"))}

    def practitioner(self, role: etree._Element | None) -> str | None:
        """The key of an assignedAuthor or assignedEntity; None for a device, the patient, or nobody."""
        if role is None or role.find("assignedAuthoringDevice") is not None:
            return None
        self.organization(role.find("representedOrganization"))
        ids = identifiers(role.iterfind("id"))
        person = role.find("assignedPerson/name")
        if any(named(x) in self._patient for x in ids):
            return None
        said = {**name_columns(person), **concept(role.find("code"), "specialty"),
                **address_columns(role.find("addr")), **telecom_columns(role.find("telecom"))}  # fmt: skip
        return _entered(self.practitioners, ids, said, known=bool(ids or said["family"] or said["name"]))

    def organization(self, place: etree._Element | None) -> str | None:
        """The key of an organization; None if it has neither id nor name."""
        if place is None:
            return None
        ids = identifiers(place.iterfind("id"))
        said = {"name": plain_text(place.find("name")), **address_columns(place.find("addr")),
                **telecom_columns(place.find("telecom"))}  # fmt: skip
        return _entered(self.organizations, ids, said, known=bool(ids or said["name"]))


def _entered(
    known_so_far: dict[str, Columns], ids: list[etree._Element], said: Columns, *, known: bool
) -> str | None:
    """Enter what is said of somebody under their key; of several mentions, that which says most is kept."""
    if not known:
        return None
    key = key_of(ids[0]) if ids else hashlib.sha256(repr(sorted(said.items())).encode()).hexdigest()[:20]
    system, value = identifier(ids[0]) if ids else (None, None)
    row = {"key": key, "id_system": system, "id_value": value, **said}
    before = known_so_far.get(key, {})
    if sum(map(bool, row.values())) > sum(map(bool, before.values())):
        known_so_far[key] = row
    return key


def key_of(element: etree._Element) -> str:
    """Root and extension of an II, as one text."""
    return "-".join(part for part in named(element) if part)


def name_columns(name: etree._Element | None, before: str = "") -> Columns:
    """A PN: family, first two given names, prefix, suffix and use; `name` where it has no parts."""
    if name is None:
        return {f"{before}family": None, f"{before}name": None}
    given = [plain_text(x) for x in name.iterfind("given")]
    family = plain_text(name.find("family"))
    return {
        f"{before}name_use": _NAME_USE.get(name.get("use", "")), f"{before}family": family,
        f"{before}given": given[0] if given else None, f"{before}given_2": given[1] if len(given) > 1 else None,
        f"{before}prefix": plain_text(name.find("prefix")), f"{before}suffix": plain_text(name.find("suffix")),
        f"{before}name": plain_text(name) if not given and not family else None,
    }  # fmt: skip


def address_columns(address: etree._Element | None, before: str = "") -> Columns:
    """An AD: first two lines, city, state, postal code, country, use; `text` where it has no parts."""
    if address is None or address.get("nullFlavor"):
        return {}
    lines = [plain_text(x) for x in address.iterfind("streetAddressLine")]
    found = {"line": lines[0] if lines else None, "line_2": lines[1] if len(lines) > 1 else None,
             "city": plain_text(address.find("city")), "state": plain_text(address.find("state")),
             "postal": plain_text(address.find("postalCode")),
             "country": plain_text(address.find("country"))}  # fmt: skip
    if not any(found.values()):
        found["address"] = plain_text(address)
    use = next((_USE[x] for x in address.get("use", "").split() if x in _USE and _USE[x] != "mobile"), None)
    return {f"{before}{name}": text for name, text in {**found, "address_use": use}.items()}


def telecom_columns(telecom: etree._Element | None, before: str = "") -> Columns:
    """A TEL: system, value without its scheme, use."""
    value = (telecom.get("value") or "").strip() if telecom is not None else ""
    scheme, colon, rest = value.partition(":")
    kind = _TELECOM.get(scheme.lower()) if colon else None
    if telecom is None or not value:
        return {}
    use = next((_USE[x] for x in telecom.get("use", "").split() if x in _USE), None)
    shown = rest.strip() if kind and kind != "url" else value
    return {
        f"{before}telecom": shown,
        f"{before}telecom_system": kind or "other",
        f"{before}telecom_use": use,
    }


def guardian_columns(patient: etree._Element) -> Columns:
    """The patient's first guardian."""
    guardian = patient.find("guardian")
    if guardian is None:
        return {}
    return {
        **concept(guardian.find("code"), "guardian_code"),
        **name_columns(guardian.find("guardianPerson/name"), "guardian_"),
        **address_columns(guardian.find("addr"), "guardian_"),
        **telecom_columns(guardian.find("telecom"), "guardian_"),
    }


_OMB_RACES = frozenset(["1002-5", "2028-9", "2054-5", "2076-8", "2106-3", "2131-1"])
_OMB_ETHNICITIES = frozenset(["2135-2", "2186-5"])


def race_columns(patient: etree._Element) -> Columns:
    """Race and ethnicity as US Core has them: categories of the OMB, details, and both in words."""
    races = [*patient.iterfind("raceCode"), *patient.iterfind("{urn:hl7-org:sdtc}raceCode")]
    groups = [*patient.iterfind("ethnicGroupCode"), *patient.iterfind("{urn:hl7-org:sdtc}ethnicGroupCode")]
    return {**_categories(races, _OMB_RACES, "race"), **_categories(groups, _OMB_ETHNICITIES, "ethnicity")}


def _categories(codes: list[etree._Element], categories: frozenset[str], name: str) -> Columns:
    found: Mapping[str, str | None] = {
        code: x.get("displayName") for x in codes if (code := (x.get("code") or "").strip())
    }
    broad = [code for code in found if code in categories]
    detailed = [code for code in found if code not in categories]
    columns: Columns = {f"{name}_text": ", ".join(filter(None, dict.fromkeys(found.values()))) or None}
    for kind, chosen in ((name, broad), (f"{name}_detail", detailed)):
        for number, code in enumerate(chosen, start=1):
            columns |= {f"{kind}_{number}": code, f"{kind}_{number}_display": found[code]}
    return columns
