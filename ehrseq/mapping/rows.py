"""The columns that a mapping's expressions may use, and their dtypes."""

from collections.abc import Sequence

import polars as pl

from ehrseq.mapping.specification import Constant, Expression, Mapping
from ehrseq.sources.declaration import Source
from ehrseq.sources.tables import COLUMN_DTYPES


def row_schema(source: Source, mapping: Mapping) -> pl.Schema:
    """Columns an expression of the mapping may use: of its table, exploded; of its joins; and its `let`s.

    Raises: PolarsError if a `let` is wrong.
    """
    schema = joined_schema(source, mapping)
    for let in mapping.lets:
        schema[let.name] = dtype_of(let.node, schema)
    return schema


def joined_schema(source: Source, mapping: Mapping) -> pl.Schema:
    """`row_schema` without the `let`s."""
    columns = table_schema(source, mapping)
    for join in mapping.joins:
        for name, kind in source.tables[join.table].columns.items():
            if name not in join.right_keys:
                columns[join.prefix + name] = COLUMN_DTYPES[kind]
    return columns


def table_schema(source: Source, mapping: Mapping) -> pl.Schema:
    """Columns of the mapping's table, exploded."""
    columns = {name: COLUMN_DTYPES[kind] for name, kind in source.tables[mapping.table].columns.items()}
    if explode := mapping.explode:
        parts = [columns.pop(name) for name in explode.columns if name in columns]
        if explode.name:
            columns[explode.name] = pl.String()
        columns[explode.value] = common_dtype(parts)
        for name, values in explode.attributes.items():
            columns[name] = pl.Series(values, strict=False).dtype
    return pl.Schema(columns)


def common_dtype(parts: Sequence[pl.DataType]) -> pl.DataType:
    """One dtype for columns that become one: theirs if it is the same, Float64 for numbers, else String."""
    if len(set(parts)) == 1:
        return parts[0]
    return pl.Float64() if parts and all(dtype.is_numeric() for dtype in parts) else pl.String()


def dtype_of(node: Constant | Expression, schema: pl.Schema) -> pl.DataType:
    """Dtype of a `let`. Raises: PolarsError."""
    expression = pl.lit(node.value) if isinstance(node, Constant) else pl.sql_expr(node.sql)
    return dtype_in(schema, expression)


def dtype_in(schema: pl.Schema, expression: pl.Expr) -> pl.DataType:
    """What an expression over these columns gives. Raises: a polars error if it cannot be made.

    >>> dtype_in(pl.Schema({"a": pl.Int64(), "b": pl.String()}), pl.col("a") > 1)
    Boolean
    """
    names = expression.meta.root_names()
    if len(names) == 1 and names[0] in schema and expression.meta.is_column():
        return schema[names[0]]
    used = {name: schema[name] for name in names if name in schema}
    return pl.LazyFrame(schema=used).select(expression.alias("x")).collect_schema()["x"]
