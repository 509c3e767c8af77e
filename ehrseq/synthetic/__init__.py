"""A generated hospital whose true risks are known: MIMIC-IV tables and `truth.parquet`; see README.md here."""

from ehrseq.synthetic.generate import Summary, generate

__all__ = ["Summary", "generate"]
