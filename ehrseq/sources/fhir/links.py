"""References inside a Bundle by `fullUrl`, made references by `Type/id`, as a server does when it takes a Bundle in.

Source: FHIR R4, http.html, section "transaction": replacing references to the entries of the Bundle.
"""

import polars as pl

_LEGAL_ID = r"^[A-Za-z0-9\-.]{1,64}$"
_UUID = r"^urn:(?:uuid|oid):([A-Za-z0-9\-.]{1,64})$"
_LAST = r"(?:^urn:(?:uuid|oid):|/)([A-Za-z0-9\-.]{1,64})$"


def with_ids(rows: pl.DataFrame) -> pl.DataFrame:
    """Entries without an id get that of their `fullUrl`, as an id and in their text.

    `rows`: `_json`, `full_url`, `type` and `id`, as `keys` has parsed them.
    """
    given = pl.col("full_url").str.extract(_LAST, 1)
    lacking = pl.col("id").is_null() & given.is_not_null() & pl.col("type").is_not_null()
    if not rows.select(lacking.any()).item():
        return rows
    member = pl.concat_str(pl.lit('{"id":"'), given, pl.lit('",'))
    patched = pl.concat_str(member, pl.col("_json").str.strip_chars_start(" \n\r\t").str.slice(1))
    return rows.with_columns(
        _json=pl.when(lacking).then(patched).otherwise("_json"),
        id=pl.when(lacking).then(given).otherwise("id"),
    )


def with_links(rows: pl.DataFrame) -> pl.DataFrame:
    """References to the `fullUrl` of an entry of the same Bundle become `Type/id`.

    A urn that ends in the entry's own id needs no change: it is read as that id.
    """
    named = rows.filter(
        pl.col("full_url").str.starts_with("urn:")
        & pl.col("id").str.contains(_LEGAL_ID)
        & (pl.col("full_url").str.extract(_UUID, 1) != pl.col("id"))
        & pl.col("type").is_not_null()
    )
    if named.is_empty():
        return rows
    parts = []
    for (file,), mine in rows.group_by("_file", maintain_order=True):
        own = named.filter(pl.col("_file") == file)
        if own.height:
            before = pl.format('"{}"', "full_url")
            after = pl.format('"{}/{}"', "type", "id")
            pairs = own.select(before=before, after=after).unique("before", keep="first", maintain_order=True)
            text = pl.col("_json").str.replace_many(pairs["before"].to_list(), pairs["after"].to_list())
            mine = mine.with_columns(text)
        parts.append(mine)
    return pl.concat(parts)
