"""Weight files: headers, parameters by module name, and conversion to the types that ggml loads."""

from .convert import PIECE, Piece, convert, pieces, read_parameter, read_rows
from .header import read_header
from .runs import Run, StoredTensor
from .weight_file import FileTensor, WeightFile, WeightFileError
from .weight_set import (
    Array,
    ComputedArray,
    Parameter,
    WeightSet,
    array_digest,
    check_unchanged,
    content,
    load_type,
    mappable,
)

__all__ = [
    "PIECE",
    "Array",
    "ComputedArray",
    "FileTensor",
    "Parameter",
    "Piece",
    "Run",
    "StoredTensor",
    "WeightFile",
    "WeightFileError",
    "WeightSet",
    "array_digest",
    "check_unchanged",
    "content",
    "convert",
    "load_type",
    "mappable",
    "pieces",
    "read_header",
    "read_parameter",
    "read_rows",
]
