"""Which of torch's OpInfos are compared, how far results may be off beyond the usual, what is left out and why."""

from __future__ import annotations

# Those whose traces have operations with handlers, by subject. Not masked.mean: its samples have means of infinities,
# and where() makes an infinity the largest number of F32.
_NAMES = """
abs add sub mul div.no_rounding_mode true_divide __radd__ __rsub__ __rmul__ __rdiv__ rsub reciprocal neg addcmul
addcdiv sqrt rsqrt square exp log sin cos tanh sigmoid pow clamp clamp_min clamp_max deg2rad rad2deg positive lerp
nn.functional.relu nn.functional.relu6 nn.functional.leaky_relu nn.functional.silu nn.functional.gelu
nn.functional.glu nn.functional.hardtanh nn.functional.hardswish nn.functional.hardsigmoid nn.functional.softsign
nn.functional.tanhshrink masked_fill

mm addmm addmm.decomposed addmv bmm baddbmm addr mv dot vdot matmul __rmatmul__ linalg.multi_dot inner outer kron
tensordot einsum nn.functional.linear nn.functional.embedding

nn.functional.conv1d nn.functional.conv2d nn.functional.conv3d nn.functional.conv_transpose1d
nn.functional.conv_transpose2d nn.functional.conv_transpose3d

nn.functional.layer_norm nn.functional.rms_norm nn.functional.group_norm nn.functional.batch_norm native_layer_norm
nn.functional.normalize linalg.vector_norm softmax nn.functional.softmin mean sum trace
nn.functional.adaptive_avg_pool1d nn.functional.mse_loss nn.functional.l1_loss nn.functional.pairwise_distance

clone contiguous to float double expand expand_as expand_copy broadcast_to permute permute_copy transpose
transpose_copy t t_copy T mT reshape view view_copy flatten unflatten ravel squeeze unsqueeze movedim select slice
narrow narrow_copy split split_with_sizes split_with_sizes_copy unsafe_split chunk unsafe_chunk tensor_split hsplit
vsplit dsplit unbind unbind_copy diagonal diagonal_copy unfold unfold_copy as_strided as_strided_copy diff cat stack
hstack vstack dstack column_stack block_diag repeat tile fill zero_ __getitem__ index_copy index_put index_select
slice_scatter select_scatter roll rot90

constant_pad_nd nn.functional.pad.constant nn.functional.pad.reflect nn.functional.pad.replicate
nn.functional.pad.replicate_negative nn.functional.pad.circular nn.functional.pixel_shuffle
nn.functional.pixel_unshuffle nn.functional.channel_shuffle nn.functional.interpolate.nearest
nn.functional.interpolate.nearest-exact nn.functional.upsample_nearest

gt lt ge le eq ne logical_not logical_and logical_or logical_xor isinf isnan where any all
floor ceil round trunc fmod remainder floor_divide div.trunc_rounding div.floor_rounding sign sgn expm1 tan log2
maximum minimum amax amin argmax argmin max.reduction_no_dim max.reduction_with_dim min.reduction_with_dim
topk sort cumsum var std var_mean cov polar gather flip bool long int nan_to_num
nn.functional.softplus nn.functional.elu nn.functional.mish nn.functional.logsigmoid nn.functional.prelu
nn.functional.instance_norm linalg.qr nn.functional.unfold grid_sampler_2d
nn.functional.avg_pool2d nn.functional.avg_pool3d nn.functional.adaptive_avg_pool2d
nn.functional.adaptive_avg_pool3d nn.functional.interpolate.linear nn.functional.interpolate.bilinear
nn.functional.interpolate.bicubic
"""
NAMES = tuple(_NAMES.split())

TOLERANCE = {"nn.functional.mish": 1e-3}  # relative L2; log(1 + exp(x)) of one negative x

# Samples that are left out, by a pattern of their name and error.
EVERYWHERE = {
    r"a tensor without elements": "no program has empty tensors; whatever reads one in a model is empty itself",
}
_EACH = "the limit or exponent of each element is another one: no model has it"
_VIEW = "in place it changes a view's shape, for which there is no program; not in models but through matmul"
_POSITIONS = "positions along a dimension after the first"
_GAPS = "torch's decomposition of it copies what lies between the elements too; no model has it"
_OVERLAP = "ggml has no views with an element in several places"
LEFT_OUT: dict[str, dict[str, str]] = {
    "clamp": {r"a limit for each element": _EACH},
    "clamp_min": {r"a limit for each element": _EACH},
    "clamp_max": {r"a limit for each element": _EACH},
    "addmm": {r"addmm with": "factors other than 1: no model has them"},
    "addr": {r"aten\.addr_": "no handler, and in place torch has no decomposition"},
    "nn.functional.embedding": {r"embedding_renorm_": "it changes the table while it is read"},
    "nn.functional.layer_norm": {r"an eps of -": "ggml refuses it, and it may be the root of a negative number"},
    "nn.functional.rms_norm": {r"an eps of -": "ggml refuses it, and it may be the root of a negative number"},
    "native_layer_norm": {
        r"an eps of -": "ggml refuses it, and it may be the root of a negative number",
        r"a result that no handler makes": "mean and deviation are results too, which only training reads",
    },
    "nn.functional.batch_norm": {r"training=True": "the statistics of the batch: training"},
    "transpose": {r"in place": _VIEW},
    "t": {r"in place": _VIEW},
    "unsqueeze": {r"in place": _VIEW},
    "as_strided": {r"in place": _VIEW},
    "tensor_split": {
        r"its data is not allocated": "the places to split at are a tensor, which torch reads as it traces"
    },
    "cov": {r"aten\.equal": "weights of the observations, whose values torch reads as it traces"},
    "polar": {r"complex numbers": "its results are complex, for which no program has a type"},
    "slice_scatter": {r"strided": _GAPS},
    "select_scatter": {r"strided": _GAPS},
    "index_put": {r"added up": "values that are added up: no model has it"},
    "roll": {r"aten\.(index_select|roll)": _POSITIONS},
    "unfold": {r"whose elements overlap": _OVERLAP},
    "unfold_copy": {r"whose elements overlap": _OVERLAP},
    "nn.functional.softplus": {r"softplus with a threshold": "a threshold so low that the two halves differ: no model"},
    "nn.functional.instance_norm": {r"learns its mean": "the statistics of the batch: training"},
    "linalg.qr": {r"QR decomposition": "of wide matrices and of several at once"},
    "grid_sampler_2d": {r"interpolation": "bicubic, and borders by reflection"},
    "nn.functional.avg_pool2d": {r"divides by": "a divisor of its own: no model has it"},
    "nn.functional.avg_pool3d": {r"divides by": "a divisor of its own: no model has it"},
}

# Handlers that no sample reaches, by a pattern of the name.
ELSEWHERE = {
    r"clamp(_max)?": "torch's samples have a limit for each element: tests/parity/operation_cases/elementwise.py",
    r"comfy_kitchen\..*|torchvision\..*": "not torch's: tests/parity/operation_cases",
    r"_?scaled_dot_product.*": "torch's samples have dropout: tests/parity/operation_cases/attention.py",
    r"__and__|argsort": "torch divides them: tests/parity/operation_cases has them undivided",
    r"bitwise_.*": "torch's samples are whole numbers, which the host computes",
    r"max_pool2d_with_indices": "more than a thousand samples; tests/parity/operation_cases has some",
    r"_upsample_.*_aa|upsample_trilinear3d|col2im|softplus": "tests/parity/operation_cases alone",
}

# Operations with weights: which argument is the weight, and the dimension along which each argument is made 32 times as
# wide, so that rows of the weight are whole blocks of a quantized type. Not transposed
# volumes, which take lavapipe half a minute.
WEIGHTS: dict[str, tuple[str, dict[str, int]]] = {
    "nn.functional.linear": ("t1", {"t0": -1, "t1": -1}),
    "mm": ("t1", {"t1": -1}),
    "nn.functional.embedding": ("t0", {"t0": -1}),
    "nn.functional.conv1d": ("t1", {"t1": 0, "t2": 0}),
    "nn.functional.conv2d": ("t1", {"t1": 0, "t2": 0}),
    "nn.functional.conv3d": ("t1", {"t1": 0, "t2": 0}),
    "nn.functional.conv_transpose1d": ("t1", {"t1": 1, "t2": 0}),
    "nn.functional.conv_transpose2d": ("t1", {"t1": 1, "t2": 0}),
}
