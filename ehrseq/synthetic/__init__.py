"""A generated hospital whose true risks are known: MIMIC-IV tables and `truth.parquet`. See README.md beside this file."""

from ehrseq.synthetic.generate import Summary, generate

__all__ = ["Summary", "generate"]
