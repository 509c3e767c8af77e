"""Documents parsed safely: no DTD, no entities, no network, and caps on size and depth."""

import re
from pathlib import Path

from lxml import etree

_MOST_BYTES = 64 << 20
_HL7 = re.compile(rb"""\sxmlns\s*=\s*(["'])urn:hl7-org:v3\1""")
_ROOT = re.compile(rb"<((?:\w+:)?ClinicalDocument)\b")
_PREFIXES = {"xsi": "http://www.w3.org/2001/XMLSchema-instance", "sdtc": "urn:hl7-org:sdtc",
             "voc": "urn:hl7-org:v3/voc",
             "cda": "urn:hl7-org:v3", "n1": "urn:hl7-org:v3"}  # fmt: skip
TYPE = f"{{{_PREFIXES['xsi']}}}type"
"""The attribute `xsi:type`."""


class DocumentError(ValueError):
    """A document that is not read: `rule` names why, the message says what was found. Neither holds patient data."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises: DocumentError (rule `size`) above 64 MB; OSError."""
    if path.stat().st_size > _MOST_BYTES:
        raise DocumentError("size", f"the document is larger than {_MOST_BYTES >> 20} MB")
    return path.read_bytes()


def parse(data: bytes) -> etree._Element:
    """The root `ClinicalDocument`. Its elements have no namespace, however the document declares it.

    Raises: DocumentError (rules `dtd`, `depth`, `xml`, `document`).

    >>> parse(b"<ClinicalDocument><id root='1'/></ClinicalDocument>").find("id").get("root")
    '1'
    >>> parse(b"<!DOCTYPE x><ClinicalDocument/>")
    Traceback (most recent call last):
    ehrseq.sources.ccda.xml.DocumentError: the document has a DTD, which is never read
    """
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DocumentError("dtd", "the document has a DTD, which is never read")
    root = _tree(_HL7.sub(b"", data))
    if root.getroottree().docinfo.internalDTD is not None:
        raise DocumentError("dtd", "the document has a DTD, which is never read")
    if root.tag[:1] == "{" or root.find(".//{urn:hl7-org:v3}*") is not None:
        for element in root.iter("{urn:hl7-org:v3}*"):
            element.tag = etree.QName(element).localname
    if root.tag != "ClinicalDocument":
        raise DocumentError("document", "the root element is not ClinicalDocument")
    return root


def _tree(data: bytes) -> etree._Element:
    try:
        return etree.fromstring(data, _parser())
    except etree.XMLSyntaxError as error:
        if "Namespace prefix" not in str(error):
            raise _refusal(error) from None
    start = _ROOT.search(data)
    head = data[start.end() : data.find(b">", start.end())] if start else b""
    lacking = [f' xmlns:{p}="{uri}"' for p, uri in _PREFIXES.items() if f"xmlns:{p}".encode() not in head]
    try:
        return etree.fromstring(_ROOT.sub(rb"<\1" + "".join(lacking).encode(), data, count=1), _parser())
    except etree.XMLSyntaxError as error:
        raise _refusal(error) from None


def _parser() -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False,
        remove_comments=True, remove_pis=True,
    )  # fmt: skip


def _refusal(error: etree.XMLSyntaxError) -> DocumentError:
    if "depth" in str(error).lower():
        return DocumentError("depth", "elements are nested more than 256 deep")
    return DocumentError("xml", f"not well-formed XML at line {error.lineno}")
