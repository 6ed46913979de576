"""A torch module that torch computes in this process, with weights that stay in their file."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from ...errors import OutOfMemory
from ...output_check import check_of, check_outputs
from ...placement import CPU, MIB, Placement
from ...threads import wanted_threads
from ...weights import WeightSet, check_unchanged
from ...wire.turn import NO_TURN, Turn
from ..model import Function, Model, Patches
from .weight_mode import EngineMode, half_is_faster
from .weight_reader import Values


class TorchModel(Model):
    """Runs functions of a module on the CPU; of the weights it holds the vectors and what a layer just needs."""

    def __init__(
        self, module: torch.nn.Module, weights: WeightSet, placement: Placement | str, half: bool | None = None
    ) -> None:
        """module: as for Model. half: multiply matrices in BF16, but not those that the file has in F32.

        By default that is done where the processor is faster at it.
        """
        super().__init__(module, weights, placement)
        self.half = half
        self._vectors: dict[str, Tensor] = {}
        self._values: Values | None = None

    def set_patches(self, patches: Patches) -> None:
        """As Model."""
        with self._lock:
            super().set_patches(patches)
            self._vectors.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of weights held now, in this process's memory."""
        values = self._values
        held = sum(vector.nbytes for vector in list(self._vectors.values()))
        return held + (values.nbytes if values else 0)

    def run(
        self,
        key: Hashable,
        function: Function,
        inputs: Mapping[str, Tensor],
        interrupted: Callable[[], bool] | None = None,
        progress: Callable[[float], None] | None = None,
        turn: Turn = NO_TURN,
    ) -> tuple[Tensor, ...]:
        """As Model.run; raises WeightFileError and OutOfMemory too."""
        with self._lock, torch.no_grad(), _memory(), _threads():
            half = half_is_faster() if self.half is None else self.half
            named = [*self.module.named_parameters(remove_duplicate=False), *self.module.named_buffers()]
            names, matrices = {id(p): name for name, p in named}, sum(p.ndim > 1 for _, p in named)
            done = 0

            def advance() -> None:
                nonlocal done
                done += 1
                if progress:
                    progress(min(1.0, done / matrices))

            self._values = Values(self.weights)
            mode = EngineMode(names, self._values, self._vectors, half, interrupted, advance, self._branches)
            given = {name: _own(x) for name, x in inputs.items()}
            try:
                with mode:
                    result = function(self.module, given)
            finally:
                self._values.close()
                self._values = None
            tensors = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]
            results = tuple(x.to(torch.float32).contiguous() for x in tensors)
            arrays = {name: x.numpy() for name, x in given.items()}
            check_outputs(self.weights, self.placement.device, arrays, [check_of(x.numpy()) for x in results])
            return results

    def fits(self, key: Hashable, function: Function, inputs: Mapping[str, Tensor]) -> bool:
        """True: the system gives this process memory as it computes, or `run` raises OutOfMemory."""
        return True

    def load(
        self, progress: Callable[[int, int], None] | None = None, interrupted: Callable[[], bool] | None = None
    ) -> None:
        """Nothing to bring anywhere; raises WeightFileError where a file changed."""
        check_unchanged(self.weights)
        if progress:
            progress(1, 1)

    def unload(self, digest: str | None = None) -> None:
        """Free the vectors, which are all that stays between runs."""
        with self._lock:
            self._vectors.clear()


def _own(x: Tensor) -> Tensor:
    """A copy, which the function may write to, on the CPU and of floats in F32."""
    return x.detach().to("cpu", torch.float32 if x.is_floating_point() else x.dtype, copy=True)


@contextmanager
def _threads() -> Iterator[None]:
    """Torch on as many threads as the user wants; else on those it has."""
    wanted, usual = wanted_threads(), torch.get_num_threads()
    if wanted is None:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


@contextmanager
def _memory() -> Iterator[None]:
    """Turn the RuntimeError of torch's allocator into OutOfMemory."""
    try:
        yield
    except RuntimeError as error:
        tried = re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", str(error))
        if tried is None:
            raise
        asked = int(tried[1])
        raise OutOfMemory(
            CPU,
            "activations",
            asked,
            0,
            f"This computer's memory has no {asked / MIB:,.1f} MiB left for what a model computes in torch. Unload "
            "other models, or choose a smaller picture or smaller tiles.",
        ) from error  # fmt: skip
