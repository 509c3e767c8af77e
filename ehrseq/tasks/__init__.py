"""Cohorts and labels: ACES task files over a timeline, compiled to polars."""
