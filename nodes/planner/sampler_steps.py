"""How often a sampler calls its model, found out by running it on a single number with a model that returns zeros."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import comfy.k_diffusion.sampling
import comfy.samplers
import torch
from comfy.samplers import KSampler
from torch.overrides import TorchFunctionMode

from ..components.core_function import with_globals
from .unknown import Inputs, Unknown

log = logging.getLogger(__name__)
_COUNTED = 64  # steps; more of them are as these


def model_calls(inputs: Inputs, patcher: Any) -> int:
    """The calls of a sampler node's model, each for all its conditionings; 0 where that is not known.

    inputs: of KSampler, KSamplerAdvanced, SamplerCustom or SamplerCustomAdvanced.
    """
    if any(isinstance(value, Unknown) for name, value in inputs.items() if name in _ABOUT_STEPS):
        return 0
    if "sigmas" in inputs:
        sampler, sigmas = inputs.get("sampler"), inputs["sigmas"]
    elif inputs.get("sampler_name") not in KSampler.SAMPLERS or inputs.get("scheduler") not in KSampler.SCHEDULERS:
        return 0
    else:
        sampler, sigmas = comfy.samplers.sampler_object(str(inputs.get("sampler_name"))), _sigmas(inputs, patcher)
    function = getattr(sampler, "sampler_function", None)
    if not isinstance(sigmas, torch.Tensor) or sigmas.ndim != 1:
        return 0
    steps = max(0, len(sigmas) - 1)
    if function is None or not steps:
        return steps
    counted = min(steps, _COUNTED)
    calls = _counted(function, getattr(sampler, "extra_options", {}), sigmas[: counted + 1].float(), patcher)
    return round(calls * steps / counted) or steps


_ABOUT_STEPS = ("steps", "denoise", "sampler_name", "scheduler", "start_at_step", "end_at_step", "sampler", "sigmas")


def _sigmas(inputs: Inputs, patcher: Any) -> torch.Tensor:
    """The noise levels of KSampler and KSamplerAdvanced, as core's nodes make and cut them."""
    steps, scheduler, denoise = int(inputs["steps"]), str(inputs.get("scheduler")), float(inputs.get("denoise", 1.0))
    sampler = str(inputs.get("sampler_name"))
    made = KSampler(patcher, steps, "cpu", sampler, scheduler, denoise, patcher.model_options)
    begin, end = int(inputs.get("start_at_step", 0)), int(inputs.get("end_at_step", steps))
    sigmas: torch.Tensor = made.sigmas[: end + 1]
    return sigmas[begin:]


def _counted(function: Callable[..., Any], options: Mapping[str, Any], sigmas: torch.Tensor, patcher: Any) -> int:
    """Calls of the model; 0 where the sampler is not of core's module of them, or needs more than zeros."""
    silent, model = _without_progress_bar(function), _Zeros(patcher)
    if silent is None:
        return 0
    denoiser = comfy.samplers.KSamplerX0Inpaint(model, sigmas)
    denoiser.noise = denoiser.latent_image = torch.zeros(1, 1, 1, 1)
    extra = {"model_options": {}, "seed": 0, "denoise_mask": None}
    try:
        with _NothingRandom():
            silent(denoiser, denoiser.noise, sigmas, extra_args=extra, callback=None, disable=True, **options)
    except Exception as error:  # of another's sampler
        log.debug("The calls of a sampler could not be counted: %s", error)
        return 0
    return model.calls


def _without_progress_bar(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """A copy of a sampler of core's module, and of what that calls there, without tqdm; None for any other sampler.

    A full disk can leave tqdm's lock with ComfyUI's own thread for good: `refresh` holds it while it writes.
    """
    core = vars(comfy.k_diffusion.sampling)
    names = {**core, "trange": _steps}
    copies = {}
    for name, value in core.items():
        plain = inspect.unwrap(value) if isinstance(value, FunctionType) else None
        if plain is not None and plain.__globals__ is core:
            copies[plain] = names[name] = with_globals(plain, names)
    return copies.get(inspect.unwrap(function))


def _steps(count: int, **_: Any) -> range:
    """tqdm's range without a bar."""
    return range(count)


class _NothingRandom(TorchFunctionMode):
    """Within it this thread draws nothing from torch's numbers, which a picture that is computed now depends on.

    Samplers draw most of theirs from generators of their own, as they are given a seed.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch.zeros_like(args[0]) if func is torch.randn_like else func(*args, **(kwargs or {}))


class _Zeros:
    """A guider whose model finds zeros."""

    cfg = 1.0

    def __init__(self, patcher: Any) -> None:
        self.model_patcher, self.inner_model = patcher, patcher.model
        self.conds: dict[str, Any] = {}
        self.calls = 0

    def __call__(self, x: torch.Tensor, sigma: Any, model_options: Mapping[str, Any], seed: Any = None) -> torch.Tensor:
        self.calls += 1
        found = torch.zeros_like(x)
        for each in model_options.get("sampler_post_cfg_function", ()):
            found = each({
                "denoised": found, "cond": {}, "uncond": {}, "cond_scale": self.cfg, "model": self.inner_model,
                "cond_denoised": found, "uncond_denoised": found, "sigma": sigma, "model_options": model_options,
                "input": x,
            })  # fmt: skip
        return found
