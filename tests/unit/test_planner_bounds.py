"""A plan takes little time and memory of ComfyUI, whatever is planned; where it would take more it says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from native import errors, placement
from native.lower import LowerOptions, WeightType, lower
from native.lower.handlers import rope
from native.quota import Quota, QuotaExceeded, check_quota, check_rows, within
from native.runner import dry_run, store
from native.runner.device import devices
from native.trace import trace
from native.wire import messages
from tests import random_models, runner_toys
from tests.pack import part

planner, middleware, requests = (part(f"nodes.planner.{name}") for name in ("planner", "middleware", "request"))
size_guard, planning, client = part("nodes.planner.size_guard"), part("native.planning"), part("native.client.runner")
plan_quota, pack_messages = part("native.quota"), part("native.wire.messages")
pack_errors = part("native.errors")
pack_weights, pack_placement = part("native.weights.weight_set"), part("native.placement")

import comfy.ops  # noqa: E402
import comfy.text_encoders.t5  # noqa: E402

MIB = 1 << 20


def test_time_that_is_used_up_ends_the_work() -> None:
    with pytest.raises(QuotaExceeded, match="0 s, as it takes longer"), within(Quota(0, 1 << 30)):
        check_quota()


def test_memory_ends_the_work_before_it_is_taken() -> None:
    """Also of what torch would make on the host."""

    def function(x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[1]).float()
        return x + (positions[:, None] - positions[None] * 0.5).sin()

    traced = trace("a model", torch.nn.Identity(), lambda _, t: function(t["x"]), {"x": torch.zeros(1, 2048, 2048)})
    with pytest.raises(QuotaExceeded, match="8 MiB of ComfyUI's memory"), within(Quota(1e6, 8 * MIB)):
        lower(traced, {})
    with pytest.raises(QuotaExceeded), within(Quota(1e6, 8 * MIB)):
        check_rows(1 << 20)
    check_quota(1 << 40)  # without a quota anything goes


def test_no_fault_of_what_is_worked_on() -> None:
    """Code that catches whatever a node raises lets it pass."""
    assert not issubclass(QuotaExceeded, Exception)


@pytest.mark.parametrize("tokens", [2500])
def test_a_table_of_distances_is_counted_without_its_values(tokens: int) -> None:
    """T5 looks up a bias by the distance of every token from every other: 6,000 words took 6 GB."""
    module = comfy.text_encoders.t5.T5(random_models.T5, torch.float32, "meta", comfy.ops.disable_weight_init).eval()
    types = {name: WeightType("F32", tuple(x.shape)) for name, x in module.state_dict().items()}
    ids = {"ids": torch.zeros(1, tokens, dtype=torch.long)}
    traced = trace("T5", module, lambda core, t: core(t["ids"], attention_mask=None)[0], ids)
    with within(Quota(1e6, 4 * tokens * tokens)):
        counted = lower(traced, types, LowerOptions(values=False)).program
    assert counted.without_values().digest == lower(traced, types).program.without_values().digest


def test_long_feed_forwards_make_no_long_program() -> None:
    """One of 2,000 chunks was of 4,000 operations and more."""
    module = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64)).to("meta")
    types = {name: WeightType("F32", tuple(x.shape)) for name, x in module.state_dict().items()}
    rows = []
    for tokens in (1 << 16, 1 << 20):
        traced = trace("a model", module, lambda core, t: core(t["x"]), {"x": torch.zeros(()).expand(1, tokens, 64)})
        rows.append(len(lower(traced, types).program.tensors))
    assert rows[1] == rows[0] < 1000


def test_rotations_are_found_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in one piece."""
    positions = np.stack(np.meshgrid(np.arange(12), np.arange(9), indexing="ij")).reshape(2, -1, 1)
    angles = np.concatenate([axis / 10.0 ** np.arange(5) for axis in positions], -1)
    table = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], -1)
    table = table.reshape(*angles.shape, 2, 2).astype(np.float32)
    whole = rope.axes(table)
    monkeypatch.setattr(rope, "_PART_BYTES", 1)
    parts = rope.axes(table)
    assert whole is not None
    assert parts is not None
    assert len(whole) == 2
    pairs = [pair for one, other in zip(whole, parts, strict=True) for pair in zip(one, other, strict=True)]
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_large_pictures_are_zeros_without_memory() -> None:
    """Neither made nor changed; a mask, whose values may steer a node, is."""
    picture = torch.zeros(()).expand(1, 3, 4096, 4096)
    with size_guard.SizeGuard():
        scaled = torch.nn.functional.interpolate(picture, size=(2048, 4096))
        for made in (picture * 2 + 1, scaled, picture.clone().add_(1)):
            assert made.shape[:2] == (1, 3)
            assert not made[..., :2, :2].any()
        assert (torch.zeros(1, 2048, 4096) + 1).all()
        assert (torch.zeros(1, 3, 64, 64) + 1).all()


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    toy = runner_toys.new_runner()
    made = client.Runner(toy._options, toy._environment)
    monkeypatch.setattr(planner, "_runner", made)
    monkeypatch.setattr(client, "_shared", made)
    yield made
    made.close()


def test_a_plan_that_is_stopped_says_so(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode reject refuses the prompt, warn lets it run."""
    monkeypatch.setattr(planner, "SECONDS", 0.0)
    latent = {"class_type": "EmptyLatentImage", "inputs": {"width": 16384, "height": 16384, "batch_size": 1}}
    prompt = {
        "1": latent, "2": {"class_type": "VAEDecode", "inputs": {"samples": ["1", 0], "vae": ["9", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
        "4": {"class_type": "GGMLMemoryPlanner", "inputs": {"mode": "reject"}},
    }  # fmt: skip
    result = planner.make_plan(prompt, requests.PlanRequest())
    assert not result.plan.fits
    said = planning.verdict(result.plan)
    assert said.startswith("Whether the workflow fits is not known: planning was stopped after 0 s")
    assert "smaller" in said
    assert planning.plan_json(result.plan)["gaps"]
    refused = middleware._plan_posted({"prompt": prompt})
    assert said in str(refused.body)
    prompt["4"]["inputs"]["mode"] = "warn"
    assert isinstance(middleware._plan_posted({"prompt": prompt}), planner.PlanResult)


def test_an_interrupted_dry_run_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends between two steps, whatever is still to come."""
    asked = []

    def interrupted() -> bool:
        asked.append(True)
        return len(asked) > 2

    placed = placement.Placement("CPU")
    steps = tuple(messages.ReleaseRequest(str(number), placed) for number in range(9))
    request = messages.DryRunRequest({"CPU": 1 << 30}, (), steps, {})
    real = store.Store(devices.ggml_devices(devices.Limits(1), lambda: False, lambda _: None))
    with pytest.raises(errors.Interrupted):
        dry_run.dry_run(real, dry_run.DryRunCache(), request, interrupted)
    assert len(asked) == 3
    assert len(dry_run.dry_run(real, dry_run.DryRunCache(), request).steps) == 9


def test_waiting_for_the_runner_is_part_of_the_quota(runner: Any) -> None:
    """The call ends with the quota, and the runner answers the next one."""
    with pytest.raises(plan_quota.QuotaExceeded), plan_quota.within(plan_quota.Quota(0, 1 << 40)):
        runner.dry_run({"CPU": 1 << 40}, [_load(number) for number in range(3000)])
    assert runner.dry_run({"CPU": 1 << 40}, [_load(0)]).error is None


def _load(number: int) -> Any:
    """A step that loads nothing, under a name of its own."""
    return pack_messages.Step("load", pack_weights.WeightSet(f"toy {number}", {}, ()), pack_placement.Placement("CPU"))


def test_a_plan_that_does_not_end_is_told_to_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_LONGEST", 0.5)
    request = requests.PlanRequest()
    with planner._one_at_a_time(lambda: False):
        with pytest.raises(pack_errors.RunnerError, match="has been going on for [12] s, held up in one of its nodes"):
            planner.make_plan({}, request)
        with pytest.raises(planner.RequestGone):
            planner.make_plan({}, request, gone=lambda: True)
    assert planner._planning.acquire(timeout=0)  # given back
    planner._planning.release()
