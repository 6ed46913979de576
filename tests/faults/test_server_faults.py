"""Devices that are not there, and processes that are killed, around a real server."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests import comfy_server
from tests.comfy_server import Client, Job, JobFailed, Refused, Workflow, changed, eventually, node_id

LOADERS = ("GGMLDiffusionModel", "GGMLTextEncoders", "GGMLVAE")
STEPS = 40


@pytest.mark.parametrize("loader", LOADERS)
def test_an_unknown_device_is_refused_before_anything_runs(comfyui: Client, good: Workflow, loader: str) -> None:
    with pytest.raises(Refused) as refused:
        comfyui.run(changed(good, {loader: {"device": "CUDA7"}}))
    said = refused.value.said(node_id(good, loader))
    assert "no device CUDA7" in said
    devices = "".join(comfyui.run({"1": {"class_type": "GGMLDevices", "inputs": {}}}).outputs["1"]["text"])
    names = [line.split(":")[0] for line in devices.splitlines() if line[0] != " " and ": " in line]
    assert "CPU" in names
    assert all(name in said for name in names)


def kill_while_sampling(comfyui: Client, workflow: Workflow, times: int) -> Job | JobFailed:
    """Run a workflow, killing the first `times` runners that finish a step."""
    sampler = node_id(workflow, "KSampler")
    killed: list[int] = []

    def kill(kind: str, data: Any) -> None:
        if kind == "progress" and data["node"] == sampler and len(killed) < times:
            runner = comfyui.runner()
            if runner and runner.pid not in killed:
                killed.append(runner.pid)
                runner.kill()

    events = comfyui.follow(workflow, kill)
    assert len(killed) == times
    return comfyui.outcome(events[0][1]["prompt_id"])


def test_a_job_outlives_the_runner(comfyui: Client, good: Workflow) -> None:
    """Killed in the middle of sampling, the job ends with the picture that it would have made."""
    long = changed(good, {"KSampler": {"steps": STEPS, "seed": 11}})
    end = kill_while_sampling(comfyui, long, times=1)
    assert isinstance(end, Job)
    comfyui.draw(changed(good, {"KSampler": {"seed": 12}}))
    again = comfyui.draw(changed(long, {"SaveImage": {"filename_prefix": "again"}}))
    np.testing.assert_array_equal(comfyui.pictures(end)[0], again)


def test_killed_again_and_again_the_job_ends_and_the_next_one_works(comfyui: Client, good: Workflow) -> None:
    end = kill_while_sampling(comfyui, changed(good, {"KSampler": {"steps": STEPS, "seed": 13}}), times=3)
    if isinstance(end, JobFailed):  # two deaths within one step
        assert end.node == node_id(good, "KSampler")
        assert "ended twice over the same request" in end.message
    assert comfyui.draw(changed(good, {"KSampler": {"seed": 14}})).shape == (64, 64, 3)


def test_nothing_is_left_of_a_killed_server(tmp_path: Path, models: Path, good: Workflow) -> None:
    with comfy_server.running(tmp_path, models) as client:
        endless = changed(good, {"KSampler": {"steps": 5000}})
        client.queue(endless)
        runner = eventually(lambda: client.runner() if client.mapped_models() else None, "a runner with models")
        os.kill(client.server.process.pid, signal.SIGKILL)
        client.server.process.wait()
        eventually(lambda: not is_running(runner), "the runner's end")


def is_running(process: psutil.Process) -> bool:
    """Whether it exists and is more than a zombie that nobody has collected."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
