"""HL7 v2 messages (2.1 to 2.8) as tables: one for each kind of segment."""

from ehrseq.sources.hl7v2.read import SUFFIXES, read

__all__ = ["SUFFIXES", "read"]
