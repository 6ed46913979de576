"""Random workflows, one after the other: each phase takes what is planned, and budgets are what they are said to be.

A run takes one sequence of random_workflows.py, another one each day of the year; `--all` takes 300 workflows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from . import random_graphs, random_workflows

SEQUENCES = 60
STEP = 4  # samples are fewer than sequences
FEW = 3  # workflows of a sequence, where not all are asked for


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The sequence whose turn it is, or all of them; a test each, as a test has a limit of time."""
    if metafunc.function is test_random_workflows_take_what_is_planned:
        option = metafunc.config.getoption
        metafunc.parametrize("number", range(SEQUENCES) if option("--all") else [option("--sample") * STEP % SEQUENCES])


def test_random_workflows_take_what_is_planned(number: int, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    everything = pytestconfig.getoption("--all")
    outcome, chosen = random_workflows.Outcome(), random_graphs.sequence(number)
    if not everything:
        chosen.graphs = chosen.graphs[:FEW]
    with random_workflows.bench(tmp_path) as bench, random_workflows.family(chosen, tmp_path):
        random_workflows.play(bench, chosen, outcome)
        if everything:
            random_workflows.with_budgets(bench, chosen, outcome)
    assert outcome.workflows == (random_graphs.LENGTH if everything else FEW)
    assert not [str(each) for each in outcome.deviations if each.beyond]
    assert not outcome.wrong


@pytest.mark.parametrize(("number", "said"), [(29, "MiniMax H3 supports batch size 1"), (34, "The expanded size")])
def test_what_a_model_refuses_is_not_in_the_plan(tmp_path: Path, number: int, said: str) -> None:
    """ComfyUI's MiniMax H3 computes no batch, and its HunyuanVideo none with a mask of the text."""
    chosen = random_graphs.sequence(number)
    assert chosen.small is not None
    assert chosen.small.kind in random_graphs.ALONE
    graph = chosen.graphs[0]
    next(node for node in graph.values() if node["class_type"] == "SmallInputs")["inputs"]["batch"] = 2
    with random_workflows.bench(tmp_path) as bench, random_workflows.family(chosen, tmp_path), bench.runners():
        plan = bench.plan(graph)
    assert len(plan.gaps) == 1
    assert f"KSampler fails: {said}" in plan.gaps[0]


def test_sequences_have_everything() -> None:
    """All that workflows are said to vary, in 300 of them; each is the same every time."""
    graphs = [graph for number in range(SEQUENCES) for graph in random_graphs.sequence(number).graphs]
    assert len(graphs) == 300
    types = [[node["class_type"] for node in graph.values()] for graph in graphs]
    for name in (
        "LoraLoader", "LoraLoaderModelOnly", "VAEEncode", "VAEEncodeTiled", "VAEEncodeForInpaint", "SetLatentNoiseMask",
        "VAEDecode", "VAEDecodeTiled", "LatentUpscale", "SmallInputs",
    ):  # fmt: skip
        assert sum(name in each for each in types) >= 10, name
    assert sum(each.count("KSampler") == 2 for each in types) >= 50
    assert sum(each.count("GGMLDiffusionModel") == 2 for each in types) >= 20
    for device in random_graphs.DEVICES:
        for kind in ("GGMLDiffusionModel", "GGMLTextEncoders", "GGMLVAE"):
            placed = [node["inputs"] for graph in graphs for node in graph.values() if node["class_type"] == kind]
            assert {each["weights"] for each in placed if each["device"] == device} == set(random_graphs.RESIDENCIES)
    assert random_graphs.sequence(7) == random_graphs.sequence(7)
