"""Convolutions."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .case import IMAGE, Case

LINE, VOLUME = {"x": (2, 12, 17)}, {"x": (2, 6, 5, 6, 7)}
FILTER = torch.tensor([0.1, -0.3, 0.7, 0.5])

CASES = (
    Case("convolution", lambda m, t: F.conv2d(t["x"], m.w, m.b, padding=1), IMAGE, {"w": (16, 32, 3, 3), "b": (16,)}),
    Case("convolution stride", lambda m, t: F.conv2d(t["x"], m.w, stride=2), IMAGE, {"w": (16, 32, 3, 3)}),
    Case("convolution 1x1", lambda m, t: F.conv2d(t["x"], m.w, m.b), IMAGE, {"w": (16, 32, 1, 1), "b": (16,)}),
    Case("convolution part", lambda m, t: F.conv2d(t["x"], m.w[8:], m.b[8:]), IMAGE, {"w": (24, 32, 3, 3), "b": (24,)}),
    Case("convolution uneven", lambda m, t: F.conv2d(t["x"], m.w, stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
         IMAGE, {"w": (16, 32, 3, 2)}),
    Case("convolution same", lambda m, t: F.conv2d(t["x"], m.w, m.b, padding="same"), IMAGE,
         {"w": (8, 32, 4, 3), "b": (8,)}),
    Case("convolution patches", lambda m, t: F.conv2d(t["x"], m.w, m.b, stride=(2, 3)).flatten(2).transpose(1, 2),
         IMAGE, {"w": (224, 32, 2, 3), "b": (224,)}),
    Case("convolution 1d", lambda m, t: F.conv1d(t["x"], m.w, m.b, padding=2, dilation=2), LINE,
         {"w": (8, 12, 3), "b": (8,)}),
    Case("convolution 1d stride", lambda m, t: F.conv1d((t["x"].transpose(1, 2) * 2).transpose(1, 2), m.w, stride=3),
         LINE, {"w": (8, 12, 4)}),
    Case("convolution 1d patches", lambda m, t: F.conv1d(t["x"], m.w, m.b, stride=4), LINE,
         {"w": (64, 12, 4), "b": (64,)}),
    Case("convolution 3d", lambda m, t: F.conv3d(t["x"], m.w, m.b, padding=1), VOLUME,
         {"w": (8, 6, 3, 3, 3), "b": (8,)}),
    Case("convolution 3d uneven", lambda m, t: F.conv3d(t["x"], m.w, stride=(2, 1, 2), padding=(0, 2, 1),
         dilation=(1, 2, 1)), VOLUME, {"w": (5, 6, 2, 3, 1)}),
    Case("convolution 3d patches", lambda m, t: F.conv3d(t["x"], m.w, m.b, stride=(1, 2, 2)).flatten(2).transpose(1, 2),
         VOLUME, {"w": (40, 6, 1, 2, 2), "b": (40,)}),
    Case("convolution 3d part", lambda m, t: F.conv3d(t["x"][:, :, 1:4, 1:], m.w[:, 1:], m.b), {"x": (1, 6, 5, 6, 7)},
         {"w": (4, 7, 3, 3, 3), "b": (4,)}),
    Case("convolution grouped", lambda m, t: F.conv2d(t["x"], m.w, m.b, padding=1, groups=4), IMAGE,
         {"w": (24, 8, 3, 3), "b": (24,)}),
    Case("convolution grouped 1x1", lambda m, t: F.conv2d(t["x"], m.w, m.b, groups=4), IMAGE,
         {"w": (24, 8, 1, 1), "b": (24,)}),
    Case("convolution 1d grouped", lambda m, t: F.conv1d(t["x"], m.w, padding=1, groups=3), LINE, {"w": (9, 4, 3)}),
    Case("convolution 3d grouped", lambda m, t: F.conv3d(t["x"], m.w, m.b, padding=1, groups=2), VOLUME,
         {"w": (4, 3, 3, 3, 3), "b": (4,)}),
    Case("depthwise", lambda m, t: F.conv2d(t["x"], m.w, m.b, padding=1, stride=2, groups=32), IMAGE,
         {"w": (32, 1, 3, 3), "b": (32,)}),
    Case("depthwise twice", lambda m, t: F.conv2d(t["x"], m.w, m.b, padding=(0, 1), groups=32), IMAGE,
         {"w": (64, 1, 1, 3), "b": (64,)}),
    Case("depthwise 1d", lambda m, t: F.conv1d(t["x"], m.w, padding=3, dilation=2, groups=12), LINE, {"w": (12, 1, 4)}),
    Case("depthwise by a filter", lambda m, t: F.conv1d(t["x"], FILTER.to(t["x"].device).expand(12, 1, -1), stride=2,
         groups=12), LINE),
    Case("depthwise 3d", lambda m, t: F.conv3d(t["x"], m.w, m.b, padding=(1, 0, 1), stride=(2, 1, 1), groups=6), VOLUME,
         {"w": (6, 1, 3, 2, 3), "b": (6,)}),
    Case("depthwise 3d dilated", lambda m, t: F.conv3d(t["x"], m.w, dilation=(2, 1, 2), groups=6), VOLUME,
         {"w": (12, 1, 2, 2, 3)}),
    Case("transposed 1d", lambda m, t: F.conv_transpose1d(t["x"], m.w, m.b, stride=4, padding=2), LINE,
         {"w": (12, 6, 8), "b": (6,)}),
    Case("transposed 1d uneven", lambda m, t: F.conv_transpose1d(t["x"], m.w, stride=3, padding=1, output_padding=2,
         dilation=2), LINE, {"w": (12, 6, 4)}),
    Case("transposed 1d grouped", lambda m, t: F.conv_transpose1d(t["x"], m.w, m.b, stride=2, padding=1, groups=3),
         LINE, {"w": (12, 2, 4), "b": (6,)}),
    Case("transposed 1d by a filter", lambda m, t: F.conv_transpose1d(
        t["x"], FILTER.to(t["x"].device).expand(12, 1, -1), stride=2, groups=12), LINE),
    Case("transposed 2d", lambda m, t: F.conv_transpose2d(t["x"], m.w, m.b, stride=2, padding=1), IMAGE,
         {"w": (32, 6, 4, 4), "b": (6,)}),
    Case("transposed 2d uneven", lambda m, t: F.conv_transpose2d(t["x"], m.w, stride=(3, 1), padding=(2, 0),
         output_padding=(1, 0), dilation=(1, 2)), IMAGE, {"w": (32, 6, 2, 3)}),
    Case("transposed 2d grouped", lambda m, t: F.conv_transpose2d(t["x"], m.w, m.b, stride=2, groups=4), IMAGE,
         {"w": (32, 3, 2, 2), "b": (12,)}),
    Case("transposed 3d", lambda m, t: F.conv_transpose3d(t["x"], m.w, m.b, stride=2, padding=1, output_padding=1),
         VOLUME, {"w": (6, 4, 3, 3, 3), "b": (4,)}),
    Case("transposed 3d depthwise", lambda m, t: F.conv_transpose3d(t["x"], m.w, stride=(2, 1, 1), groups=6), VOLUME,
         {"w": (6, 1, 2, 1, 1)}),
)  # fmt: skip
