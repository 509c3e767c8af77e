"""What FHIR R4B is, for columns: elements, dtypes, ids, NDJSON in and out, validation.

The model is derived from `fhir.resources.R4B` (the package's default release is R5, so it is always named).
"""
