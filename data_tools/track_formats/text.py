"""Columns of numbers out of delimited text: pyarrow reads, and only when it fails are lines looked at one by one."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from taudl_dist.errors import UserError

_SNIFFED_BYTES = 65536


def first_line(path: Path) -> str:
    """The first line of a text file that is not blank; empty if there is none.

    Raises:
        UserError: the file cannot be text.
    """
    with path.open("rb") as file:
        start = file.read(_SNIFFED_BYTES)
    if b"\0" in start:
        raise UserError(
            f"{path}: found binary data, expected a text file of tracks (or .parquet, .json by its content)"
        )
    lines = start.decode("utf-8-sig", errors="replace").splitlines()
    return next((line.strip() for line in lines if line.strip()), "")


def delimiter_of(line: str) -> str:
    """',' or ';' if the line has one, else ' ', which stands for any run of blanks and tabs."""
    return next((mark for mark in ",;" if mark in line), " ")


def split(line: str, delimiter: str) -> list[str]:
    """The fields of a line, without surrounding blanks."""
    return line.split() if delimiter == " " else [field.strip() for field in line.split(delimiter)]


def read_columns(
    path: Path,
    *,
    delimiter: str,
    names: Sequence[str],
    wanted: Sequence[str],
    has_header: bool,
    text: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> dict[str, np.ndarray | pa.Array]:
    """The wanted columns by name: float64 arrays, or Arrow strings for those in `text`.

    `names` are all columns of the file in order. An empty field is NaN in an `optional` column, an error elsewhere.

    Raises:
        UserError: the first line that has another number of fields or a field that is not a number.
    """
    source = _single_blanks(path) if delimiter == " " else path
    kinds = {name: pa.string() if name in text else pa.float64() for name in wanted}
    try:
        table = csv.read_csv(
            source,
            read_options=csv.ReadOptions(column_names=list(names), skip_rows=int(has_header)),
            parse_options=csv.ParseOptions(delimiter=delimiter),
            convert_options=csv.ConvertOptions(column_types=kinds, include_columns=list(wanted), null_values=[""]),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        required = [name for name in wanted if name not in optional and name not in text]
        numbers = [name for name in wanted if name not in text]
        _explain(path, delimiter, names, numbers=numbers, required=required, has_header=has_header)
        raise UserError(f"{path}: not readable as delimited text: {error}") from None
    for name in wanted:
        if name not in optional and table[name].null_count:
            row = int(np.argmax(table[name].is_null().to_numpy()))
            raise UserError(f"{path}, {line_finder(path, has_header)(row)}: {name} is empty; expected a value")
    return {
        name: table[name].combine_chunks() if name in text else table[name].to_numpy().astype(np.float64)
        for name in wanted
    }


def line_finder(path: Path, has_header: bool) -> Callable[[int], str]:
    """Row -> 'line N' of the file; the file is only read when a message needs it."""

    def find(row: int) -> str:
        for number, (at, _) in enumerate(_lines(path)):
            if number == row + has_header:
                return f"line {at}"
        return f"row {row + 1}"

    return find


def _single_blanks(path: Path) -> io.BytesIO:
    """The file with one blank between fields and none around lines; chained replaces are ten times faster than a regex."""
    data = path.read_bytes().replace(b"\t", b" ").replace(b"\r\n", b"\n")
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return io.BytesIO(data.replace(b"\n ", b"\n").replace(b" \n", b"\n").strip())


def _lines(path: Path):
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for at, line in enumerate(file, start=1):
            if line.strip():
                yield at, line


def _explain(
    path: Path,
    delimiter: str,
    names: Sequence[str],
    *,
    numbers: Sequence[str],
    required: Sequence[str],
    has_header: bool,
) -> None:
    lines = _lines(path)
    if has_header:
        next(lines, None)
    for at, line in lines:
        fields = split(line, delimiter)
        if len(fields) != len(names) and '"' not in line:
            raise UserError(
                f"{path}, line {at}: found {len(fields)} fields, expected {len(names)} as in the first line: {line.strip()[:120]!r}"
            )
        for name, value in zip(names, fields):
            if name in numbers and not _is_number(value) and (value or name in required):
                raise UserError(f"{path}, line {at}: {name} is {value[:40]!r}; expected a number")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
