"""Tables as code: one class per table that crosses a package border.

>>> class Person(Schema):
...     '''One row per person.'''
...     person_id = Required(pl.Int64)
...     name = Nullable(pl.String)
>>> Person.person_id
'person_id'
>>> Person.check(pl.DataFrame({"person_id": [1], "name": ["a"]}))
>>> Person.check(pl.DataFrame({"person_id": ["1"], "name": ["a"]}))
Traceback (most recent call last):
...
ehrseq.core.errors.SchemaError: Person.person_id is String, expected Int64.
"""

from typing import Any

import polars as pl

from ehrseq.core.errors import SchemaError, closest

type DType = pl.DataType | type[pl.DataType]


class Column(str):
    """A column's name that also carries its dtype and whether null is allowed."""

    dtype: pl.DataType
    nullable: bool


class _Declared:
    def __init__(self, dtype: DType, nullable: bool) -> None:
        self.dtype, self.nullable = dtype, nullable


def Required(dtype: DType) -> Any:  # noqa: N802 - reads as a type in a class body
    """Declare a column that is present and never null."""
    return _Declared(dtype, nullable=False)


def Nullable(dtype: DType) -> Any:  # noqa: N802 - reads as a type in a class body
    """Declare a column that is present and may be null; the class docstring says what null means."""
    return _Declared(dtype, nullable=True)


class Schema:
    """Base of table schemas. Class attributes made by `Required` and `Nullable` become `Column` names."""

    columns: tuple[Column, ...] = ()

    def __init_subclass__(cls) -> None:
        """Turn declarations into column names, keeping their order."""
        found = []
        for name, declared in list(vars(cls).items()):
            if isinstance(declared, _Declared):
                column = Column(name)
                dtype = declared.dtype
                column.dtype = dtype if isinstance(dtype, pl.DataType) else dtype()
                column.nullable = declared.nullable
                setattr(cls, name, column)
                found.append(column)
        cls.columns = (*cls.columns, *found)

    @classmethod
    def polars_schema(cls) -> pl.Schema:
        """Names and dtypes in declared order."""
        return pl.Schema({str(column): column.dtype for column in cls.columns})

    @classmethod
    def empty(cls) -> pl.DataFrame:
        """A frame of no rows."""
        return pl.DataFrame(schema=cls.polars_schema())

    @classmethod
    def check(cls, frame: pl.DataFrame | pl.LazyFrame) -> None:
        """Check names and dtypes, and (for a DataFrame) that required columns hold no null.

        Extra columns are allowed. Raises: SchemaError naming the table, the column and what was found.
        """
        found = frame.collect_schema()
        for column in cls.columns:
            if column not in found:
                raise SchemaError(f'{cls.__name__} lacks column "{column}".{closest(column, found.names())}')
            if found[column] != column.dtype:
                raise SchemaError(f"{cls.__name__}.{column} is {found[column]}, expected {column.dtype}.")
        if isinstance(frame, pl.DataFrame):
            for column in cls.columns:
                if not column.nullable and (nulls := frame[column].null_count()):
                    raise SchemaError(f"{cls.__name__}.{column} is null in {nulls} rows; it is required.")
