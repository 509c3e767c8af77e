"""Readers: files of a hospital become typed tables, row by row accounted for."""
