"""Mapping files to FHIR: `parse` reads them, `check` holds them against R4B and the tables, `compile` makes polars
expressions, `bucket` maps the rows of some patients, `stage` runs a whole source, `cases` and `preview` show it.
"""
