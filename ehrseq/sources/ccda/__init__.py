"""C-CDA R1.1 and R2.1 documents as tables: one for each kind of entry."""

from ehrseq.sources.ccda.read import SUFFIXES, read

__all__ = ["SUFFIXES", "read"]
