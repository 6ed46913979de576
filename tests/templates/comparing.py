"""How far results of a small run are from core's, in dB: tensors element by element, meshes as geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

BEST = 99.0  # dB
_ROWS = 1024  # points whose distances to all others are computed at once
Kept = list[Any]
Mesh = Mapping[str, Any]


class Unlike(Exception):
    """Results that cannot be compared, with the reason."""


def alike(found: Kept, expected: Kept) -> float:
    """The least peak signal to noise ratio of two lists of tensors, meshes and texts in dB.

    The peak is the range of what is expected. Raises Unlike where they cannot be compared.
    """
    if len(found) != len(expected):
        raise Unlike(f"{len(found)} results, and core's {len(expected)}")
    return min((_alike(*pair) for pair in zip(found, expected, strict=True)), default=BEST)


def _alike(found: Any, expected: Any) -> float:
    if isinstance(expected, str) or isinstance(found, str):
        if found != expected:
            raise Unlike(f"the text {str(found)[:40]!r}, and core's {str(expected)[:40]!r}")
        return BEST
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        return _mesh_alike(found, expected)
    if found.shape != expected.shape:
        raise Unlike(f"a result is {_size(found)}, and core's {_size(expected)}")
    if found.numel() == 0 or torch.equal(found, expected):
        return BEST
    if not is_finite(found):
        raise Unlike("the result has values that are no numbers, and core's has none")
    found, expected = found.double(), expected.double()
    return _decibels(expected.max() - expected.min(), (found - expected).square().mean())


def _mesh_alike(found: Mesh, expected: Mesh) -> float:
    """The least of two meshes' geometry and of what their vertices have: colours and places on the texture.

    A surface through a field has other vertices in another order where the field differs in its last digit, so
    points are compared with the nearest of the other mesh, both ways, and the worse way counts.
    Source: the point-to-point metric D1 of MPEG's point cloud compression (Tian et al. 2017, "Geometric distortion
    metrics for point cloud compression"), of the vertices of faces and their centres; the peak: the longest side of
    the box.
    """
    if not is_finite(found):
        raise Unlike("the mesh has values that are no numbers, and core's has none")
    if found["of_vertices"].keys() != expected["of_vertices"].keys():
        names = [", ".join(sorted(each["of_vertices"])) or "nothing" for each in (found, expected)]
        raise Unlike(f"the vertices of a mesh have {names[0]}, and core's {names[1]}")
    points, others = _surface(found), _surface(expected)
    if not len(points) or not len(others):
        if len(points) != len(others):
            raise Unlike(f"a mesh has {len(found['faces'])} faces, and core's {len(expected['faces'])}")
        return BEST
    box = others.amax(dim=0) - others.amin(dim=0)
    ways = [_nearest(points, others)[0], _nearest(others, points)[0]]
    least = _decibels(box.max(), torch.stack([each.mean() for each in ways]).max())
    there, back = (_nearest(*pair)[1] for pair in _both(found["vertices"].double(), expected["vertices"].double()))
    for name, value in expected["of_vertices"].items():
        mine, theirs = found["of_vertices"][name].double(), value.double()
        errors = torch.stack([(mine - theirs[there]).square().mean(), (theirs - mine[back]).square().mean()])
        least = min(least, _decibels(theirs.max() - theirs.min(), errors.max()))
    return least


def _both(one: torch.Tensor, other: torch.Tensor) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    return (one, other), (other, one)


def _surface(mesh: Mesh) -> torch.Tensor:
    """The corners and the centres of a mesh's faces. Returns [points, 3]."""
    corners = mesh["vertices"].double()[mesh["faces"].long()]  # [faces, 3, 3]
    return torch.cat((corners.flatten(0, 1).unique(dim=0), corners.mean(dim=1)))


def _nearest(points: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The squared distance of each point to the nearest of the others, and which that is: two of [points]."""
    exact = "donot_use_mm_for_euclid_dist"
    found = [torch.cdist(each, others, compute_mode=exact).min(dim=1) for each in points.split(_ROWS)]
    return torch.cat([each.values for each in found]).square(), torch.cat([each.indices for each in found])


def _decibels(peak: torch.Tensor, error: torch.Tensor) -> float:
    return min(BEST, 10 * float(torch.log10(peak.clamp(min=1e-6) ** 2 / error)))


def is_finite(value: Any) -> bool:
    """Whether all values of a tensor, or of what a mesh is made of, are numbers."""
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    return not isinstance(value, torch.Tensor) or bool(value.isfinite().all())


def _size(tensor: Sequence[Any] | Any) -> str:
    return "x".join(map(str, tensor.shape))
