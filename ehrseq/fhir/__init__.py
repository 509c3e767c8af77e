"""What FHIR R4B is, for columns: elements, dtypes, ids, NDJSON in and out, validation.

`elements` and `bindings` hold the model, `dtypes` its polars side, `ids` the names of things; `ndjson` reads (with
`structure` and `strict`) and writes (with `json_text`); `validate` checks (with `rules`, `formats`, `references`).
The model is derived from `fhir.resources.R4B` (the package's default release is R5, so it is always named).
"""
