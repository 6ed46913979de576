"""`dev.py bench`: what it takes from the peer's log and from /proc, which rows it measures, and how it shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from collections import namedtuple
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests import pack, random_models
from tests.bench import family_files, real_size_files
from tests.bench import peer as peer_process
from tests.bench.task import Report
from tools import bench, bench_flux, bench_jobs, bench_report, bench_rows, peer, places, process_watch
from tools.bench_jobs import TORCH
from tools.steps import Failure

MIB = 1 << 20
# Lines of stable-diffusion-cpp-python 0.4.7.
LOG = """\
stable-diffusion.cpp:858  - total params memory size = 691.15MB (VRAM 0.00MB, RAM 691.15MB): text_encoders \
235.06MB(RAM), diffusion_model 361.51MB(RAM), vae 94.57MB(RAM), controlnet 0.00MB(VRAM), pmid 0.00MB(RAM)
ggml_extend.hpp:1921 - clip compute buffer size: 1.42 MB(RAM)
stable-diffusion.cpp:3168 - get_learned_condition completed, taking 0.34s
ggml_extend.hpp:1921 - flux compute buffer size: 85.57 MB(RAM)
stable-diffusion.cpp:3208 - latent 1 decoded, taking 70.11s
stable-diffusion.cpp:3212 - decode_first_stage completed, taking 70.12s
stable-diffusion.cpp:3168 - get_learned_condition completed, taking 0.29s
ggml_extend.hpp:1921 - flux compute buffer size: 231.25 MB(RAM)
"""


def test_the_peers_log_is_read():
    sizes = (peer_process.COMPUTE_BUFFER, peer_process.RESIDENCIES, peer_process.ENCODERS)
    assert [peer_process.mebibytes(pattern, LOG) / MIB for pattern in sizes] == pytest.approx([231.25, 361.51, 235.06])
    assert peer_process.ENCODED.findall(LOG) == ["0.34", "0.29"]
    assert peer_process.DECODED.findall(LOG) == ["70.12"]
    with pytest.raises(ValueError, match="no line like .*flux compute buffer"):
        peer_process.mebibytes(peer_process.COMPUTE_BUFFER, "ggml_extend.hpp:1921 - clip compute buffer size: 1.42 MB")


def test_every_name_that_was_promised_is_there():
    names = [row.name for row in bench_rows.rows("CPU")]
    promised = [f"step_{size}_{kind}" for size in (256, 512, 768, 1024) for kind in ("q4_0", "q4_k", "q8_0")]
    promised += ["load", "t5_encode", "vae_decode_512", "peak_memory_512", "compute_buffer_512"]
    families = ("sd15_512", "sdxl_1024", "z_image_512", "qwen_image_512", "wan22_5b_480p")
    promised += [f"{family}_{part}" for family in families for part in ("encode", "step", "decode")]
    assert set(promised) <= set(names)
    assert len(names) == len(set(names))
    assert set(promised) <= {row.name for row in bench_rows.rows("Vulkan0")}
    assert {name for row in bench_rows.rows("CPU") for job in (row.ours, *row.peers) for _, name in job.files} == set(
        bench_rows.GIGABYTES
    )


def test_names_are_globs_or_beginnings():
    def names(*patterns: str) -> list[str]:
        return [row.name for row in bench_rows.chosen("CPU", patterns)]

    assert names("step_512", "step_1024_q8*") == ["step_512_q4_0", "step_512_q4_k", "step_512_q8_0", "step_1024_q8_0"]
    assert names("load_repacked") == ["load_repacked"]
    assert "step_768_q4_0" not in names()
    with pytest.raises(Failure, match="called step_513"):
        bench_rows.chosen("CPU", ["load", "step_513"])


def found(seconds: float, private: int = 0, **more: Any) -> bench.Found:
    return bench.Found(asdict(Report(seconds, 2, **more)), process_watch.Taken(private=private * MIB))


@pytest.fixture
def run(tmp_path: Path) -> bench.Bench:
    return bench.Bench(places.Places(root=pack.ROOT, state=tmp_path / "state", cache=tmp_path / "cache"), "CPU")


def test_the_faster_way_of_the_peer_counts(run):
    (row,) = bench_rows.chosen("CPU", ["vae_decode_512"])[:1]
    whole, tiled = row.peers
    run.found = {row.ours: found(20.0), whole: found(80.0), tiled: found(50.0)}
    measured = bench.measure(run, row)
    assert (measured.value, measured.peer_value, measured.ratio) == (20.0, 50.0, 0.4)
    assert "peer: 80.00 s" in measured.conditions
    assert "peer (tiled): 50.00 s" in measured.conditions
    assert list(asdict(measured)) == ["name", "value", "unit", "peer", "peer_value", "ratio", "conditions"]


def test_memory_is_what_no_file_stands_behind_and_on_a_gpu_what_the_device_holds(run):
    (row,) = bench_rows.chosen("CPU", ["peak_memory_512_repacked"])
    run.found = {row.ours: found(1, 6000), row.peers[0]: found(1, 8000, beside=500 * MIB)}
    assert bench.measure(run, row).ratio == 0.8
    (row,) = bench_rows.chosen("Vulkan0", ["peak_memory_512"])
    run.device = "Vulkan0"
    ours, theirs = {"weights": 600 * MIB, "compute_buffer": 100 * MIB}, {"weights": 700 * MIB, "compute_buffer": 0}
    run.found = {row.ours: found(1, 10, **ours), row.peers[0]: found(1, 9000, **theirs)}
    assert bench.measure(run, row).value == bench.measure(run, row).peer_value == 700


def test_the_parts_of_one_job_are_rows_of_their_own(run):
    rows = bench_rows.chosen("CPU", ["sd15_512"])
    assert [row.name for row in rows if row.peer == TORCH] == [
        "sd15_512_encode_torch", "sd15_512_step_torch", "sd15_512_decode_torch",
    ]  # fmt: skip
    encode, step, decode = rows[:3]
    assert encode.ours == step.ours
    run.found = {
        step.ours: found(3.0, encode=1.0),
        step.peers[0]: found(4.0, encode=2.0),
        decode.ours: found(5.0),
        decode.peers[0]: found(10.0),
    }
    assert [bench.measure(run, row).ratio for row in (encode, step, decode)] == [0.5, 0.75, 0.5]


@pytest.mark.parametrize("name", bench_rows.GIGABYTES)
def test_model_files_are_as_large_as_is_said_before_they_are_made(name, tmp_path):
    real_size_files.write(tmp_path / name, family_files.FILES[name](), hollow=True)
    gigabytes = (tmp_path / name).stat().st_size / 1e9
    assert gigabytes <= bench_rows.GIGABYTES[name] <= 1.05 * gigabytes + 0.2


def test_a_file_that_does_not_fit_the_disk_is_not_begun(run, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(bench.shutil, "disk_usage", lambda _: usage(8e9))
    with pytest.raises(Failure, match=r"needs 12\.7 GB, and 8\.0 GB are free"):
        bench.model_file(run, bench_flux.FLUX.format("Q8_0"))


MEASURED = [
    bench_report.Measured("step_256_q4_0", 31.04, "s", "stable-diffusion.cpp", 85.3, 0.3639, "2 threads <quiet>"),
    bench_report.Measured("peak_memory_512", 8134.2, "MiB", "stable-diffusion.cpp", 7000.0, 1.162, ""),
]


def test_the_table():
    head, first, second = bench_report.table(MEASURED).splitlines()
    assert first.split() == ["step_256_q4_0", "31.0", "s", "85.3", "s", "0.36", "stable-diffusion.cpp"]
    assert second.split()[1:5] == ["8,134", "MiB", "7,000", "MiB"]
    assert head.index("ratio") + len("ratio") == first.index("0.36") + len("0.36")
    assert bench_report.markdown(MEASURED).splitlines()[2].startswith("| step_256_q4_0 | 31.0 s | 85.3 s | 0.36 |")
    assert bench_report.amount(0.01234, "s") == "0.012 s"


def test_the_bars_are_as_long_as_the_figures():
    root = xml.etree.ElementTree.fromstring(bench_report.plot(MEASURED))
    widths = [float(bar.attrib["width"]) for bar in root.iter() if bar.get("height") == "8"]
    assert widths[0] / widths[1] == pytest.approx(31.04 / 85.3, rel=1e-2)
    assert widths[1] == widths[2] > 100
    assert widths[3] / widths[2] == pytest.approx(7000 / 8134.2, rel=1e-2)
    assert "2 threads <quiet>" in "".join(root.itertext())


def test_the_json_file_can_be_read_after_every_row(tmp_path):
    bench.write_json(tmp_path / "a.json", MEASURED)
    assert json.loads((tmp_path / "a.json").read_text()) == [asdict(each) for each in MEASURED]
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_and_time_of_children_count():
    child = "import time; held = bytearray(b'1') * (96 << 20)\nwhile time.process_time() < 0.5: pass\ntime.sleep(0.3)"
    parent = "import subprocess, sys; held = bytearray(b'1') * (64 << 20)\n"
    parent += f"subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent])
    with process_watch.watched(process.pid) as taken:
        process.wait()
    assert 160 * MIB < taken.private < taken.resident < 300 * MIB
    assert sum(taken.ticks.values()) > 0.4 * os.sysconf("SC_CLK_TCK")
    assert len(taken.ticks) == 2


def test_a_process_name_with_spaces_and_brackets():
    line = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 9 1 1"
    assert process_watch.processor_ticks(line) == 300


def test_the_peer_is_built_anew_for_other_flags(run, monkeypatch):
    plain, vulkan = peer.Peer(run.places, False), peer.Peer(run.places, True)
    assert plain.key() != vulkan.key()
    assert plain.venv != vulkan.venv
    assert "-DSD_VULKAN=ON" in vulkan.flags
    assert "-DSD_VULKAN=ON" not in plain.flags
    peer.stamp(plain).write(plain.key())
    assert peer.step(plain).done()
    assert not peer.step(vulkan).done()
    monkeypatch.setattr(peer, "FLAGS", ("-DGGML_NATIVE=OFF",))
    assert not peer.step(plain).done()


def test_a_measuring_process_of_this_project(run, tmp_path, monkeypatch):
    vae = random_models.write_safetensors(tmp_path / "vae.safetensors", random_models.vae())
    monkeypatch.setattr(places.Places, "python", Path(sys.executable))
    job = bench_jobs.Job("ours", "decode", (("vae", vae.name),), ("--size", "64"))
    measured = bench.start(run, job, {"vae": vae})
    assert measured.report["seconds"] > 0
    assert measured.report["threads"] >= 1
    assert measured.taken.private > 100 * MIB
