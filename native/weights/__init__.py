"""Weight files: headers, parameters by module name, and their conversion to what ggml loads."""

from .clip import clip_l
from .convert import PIECE, Piece, convert, pieces
from .flux import flux
from .header import read_header
from .identify import Kind, identify
from .read import read_parameter, read_rows
from .t5 import t5
from .vae import vae
from .weight_file import FileTensor, WeightFile, WeightFileError
from .weight_set import Parameter, WeightSet, check_unchanged, load_type, mappable

__all__ = [
    "PIECE",
    "FileTensor",
    "Kind",
    "Parameter",
    "Piece",
    "WeightFile",
    "WeightFileError",
    "WeightSet",
    "check_unchanged",
    "clip_l",
    "convert",
    "flux",
    "identify",
    "load_type",
    "mappable",
    "pieces",
    "read_header",
    "read_parameter",
    "read_rows",
    "t5",
    "vae",
]
