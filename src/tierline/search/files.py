"""Rows of a sweep in files: a part per chunk as CSV or Parquet, and the parts as one file."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from tierline.errors import InputError
from tierline.search.table import Column, Table

FileFormat = Literal["csv", "parquet"]


def format_of(path: Path) -> FileFormat:
    """Return the format that a file's name asks for; raise InputError for another, or without its library."""
    if path.suffix == ".csv":
        return "csv"
    if path.suffix != ".parquet":
        raise InputError(f"{path}: want a name that ends in .csv or .parquet")
    try:
        import pyarrow.parquet  # noqa: F401 - only whether it is there
    except ImportError:
        raise InputError(f"{path}: Parquet needs pip install 'tierline[search]'; or use .csv") from None
    return "parquet"


def encode(table: Table, chosen: FileFormat) -> bytes:
    """Return the rows of a table as the part of a file; CSV without the line of names."""
    return _csv(table) if chosen == "csv" else _parquet(table)


def header(names: Sequence[str]) -> bytes:
    """Return the first line of a CSV file."""
    return _line(names).encode()


def join(parts: Sequence[Path], names: Sequence[str], out: Path, chosen: FileFormat) -> None:
    """Write the parts, in order, as one file; what else has its name is replaced when all is written."""
    partial = out.with_name(out.name + ".partial")
    if chosen == "csv":
        with partial.open("wb") as file:
            file.write(header(names))
            for part in parts:
                file.write(part.read_bytes())
    else:
        _join_parquet(parts, partial)
    partial.replace(out)


def _join_parquet(parts: Sequence[Path], out: Path) -> None:
    import pyarrow.parquet as pq

    writer = None
    try:
        for part in parts:
            table = pq.read_table(part)
            writer = writer or pq.ParquetWriter(out, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _csv(table: Table) -> bytes:
    columns = [_cells(column) for column in table.values()]
    return "".join(f"{','.join(cells)}\n" for cells in zip(*columns, strict=True)).encode()


def _cells(column: Column) -> Iterator[str]:
    """Yield a column's cells as they stand in a file: nothing where nothing is known."""
    if column.kind == "text":
        names = [*(_quoted(name) for name in column.names), ""]
        return (names[code] for code in column.values.tolist())
    if column.kind == "bool":
        return ("" if cell is None else str(cell).lower() for cell in column.cells())
    return ("" if cell is None else repr(cell) for cell in column.cells())


def _quoted(text: str) -> str:
    return _line([text])[:-1]


def _line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _parquet(table: Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: _arrow(column) for name, column in table.items()}
    out = io.BytesIO()
    pq.write_table(pa.table(arrays), out, compression="zstd")
    return out.getvalue()


def _arrow(column: Column) -> Any:  # noqa: ANN401 - pyarrow publishes no types
    import pyarrow as pa

    if column.kind == "text":
        codes = pa.array(column.values, mask=column.values < 0)
        return pa.DictionaryArray.from_arrays(codes, pa.array(column.names, pa.string())).cast(pa.string())
    if column.kind == "float":
        return pa.array(column.values, from_pandas=True)
    unknown = None if column.known is None else ~column.known
    return pa.array(column.values.astype(bool) if column.kind == "bool" else column.values, mask=unknown)
