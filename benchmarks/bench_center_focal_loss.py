"""center_focal_loss, forward and backward, beside its peers, in one run: `make benchmark`."""

from __future__ import annotations

import pytest
import torch

from benchmarks.alternating import alternating_medians
from benchmarks.memory import peak_bytes
from benchmarks.peers import peers
from benchmarks.ways import COMPILED, TWO_OPS
from tests.ops.table import OPS, Case

CASE = Case(OPS["center_focal_loss"], "")
NAMES = ("native", TWO_OPS, "eager", COMPILED, "floor")


@pytest.mark.parametrize("peer", NAMES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_backward(benchmark, dtype, layout, peer):
    benchmark.group = f"center_focal_loss, forward + backward, {dtype}, {layout}"
    run = peers(CASE.call("cpu", dtype, layout=layout))[peer]
    run()
    benchmark.pedantic(run, rounds=7, warmup_rounds=2)


def test_it_takes_at_most_0_6_of_the_time_of_the_two_ops_and_a_heatmap_less(benchmark):
    """Alternate them, so that a busy moment of the machine meets all."""
    call = CASE.call()
    found = peers(call)
    contestants = {name: found[name] for name in ("native", TWO_OPS, "floor")}
    medians = alternating_medians(contestants, rounds=20, warmup=3)
    memory = {name: peak_bytes(contestants[name]) for name in ("native", TWO_OPS)}
    benchmark.extra_info.update(medians)
    benchmark.group = "center_focal_loss: the ratios that are asked for"
    benchmark.pedantic(contestants["native"], rounds=3)
    spelled = ", ".join(f"{name} {median * 1e3:.1f} ms" for name, median in medians.items())
    print(f"\n{spelled}; {', '.join(f'{name} {peak / 1e6:.1f} MB' for name, peak in memory.items())}")
    assert medians["native"] <= 0.6 * medians[TWO_OPS]
    heatmap = call.arguments["logits"].numel() * 4
    assert memory["native"] <= memory[TWO_OPS] - 0.97 * heatmap
