"""Weight files: headers, parameters by module name, and conversion to the types that ggml loads."""

from .convert import PIECE, Piece, convert, pieces, read_parameter, read_rows
from .header import read_header
from .identify import Kind, identify
from .names import clip_l, t5
from .runs import Run, StoredTensor
from .weight_file import FileTensor, WeightFile, WeightFileError
from .weight_set import Parameter, WeightSet, check_unchanged, load_type, mappable

__all__ = [
    "PIECE",
    "FileTensor",
    "Kind",
    "Parameter",
    "Piece",
    "Run",
    "StoredTensor",
    "WeightFile",
    "WeightFileError",
    "WeightSet",
    "check_unchanged",
    "clip_l",
    "convert",
    "identify",
    "load_type",
    "mappable",
    "pieces",
    "read_header",
    "read_parameter",
    "read_rows",
    "t5",
]
