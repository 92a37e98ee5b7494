from __future__ import annotations

import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import mdnkernels
from mdnkernels import backends
from mdnkernels.__main__ import report
from tests.ops.agreement import outputs_of
from tests.ops.table import OPS, Variant
from tests.processes import python

# The ordinary variant of every op, and those with an index. tests/triton has its own, under the interpreter.
PAIRS = [
    (Variant(entry, name), backend)
    for entry in OPS.values()
    for i, name in enumerate(entry.variants)
    if i == 0 or (name in entry.representatives and "points" in entry.variants[name])
    for backend in ("native", "eager")
]


def through_inductor(variant, backend):
    """Say whether inductor compiles it here: of the ops with a gradient, their own tests take one each through it."""
    return not variant.differentiable and backend == "native"


@pytest.mark.parametrize(
    ("variant", "backend", "compiler"),
    [
        *((*pair, "aot_eager") for pair in PAIRS),
        # Seconds each.
        *(pytest.param(*pair, "inductor", marks=() if through_inductor(*pair) else pytest.mark.slow) for pair in PAIRS),
    ],
    ids=str,
)
def test_every_op_compiles_as_one_graph_on_its_backends(variant, backend, compiler):
    torch.compiler.reset()
    arguments = variant.leaves((4, 5))
    with mdnkernels.use_backend(backend):
        expected = outputs_of(variant.function(**arguments))
        compiled = torch.compile(lambda: variant.function(**arguments), fullgraph=True, backend=compiler)
        actual = outputs_of(compiled())
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize(("variant", "backend"), PAIRS, ids=str)
def test_every_op_has_the_shapes_and_dtypes_of_its_result_on_fake_tensors(variant, backend):
    arguments = variant.leaves((4, 5))
    with mdnkernels.use_backend(backend):
        expected = outputs_of(variant.function(**arguments))
        with FakeTensorMode() as mode:
            fakes = {n: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for n, v in arguments.items()}
            actual = outputs_of(variant.function(**fakes))
    for a, e in zip(actual, expected, strict=True):
        assert (a.shape, a.dtype) == (e.shape, e.dtype)


class Ops(torch.nn.Module):
    def forward(self, heatmap, loc, scale):
        peaks = mdnkernels.topk_peaks(heatmap, 4)
        mode = mdnkernels.mixture_mode(heatmap, loc, scale, index=peaks.index)
        loss = mdnkernels.mixture_nll(heatmap, loc, scale, mode.loc, index=peaks.index)
        patches = mdnkernels.gather_patches(heatmap, peaks.index)
        return loss + mdnkernels.heatmap_focal_loss(heatmap, torch.sigmoid(heatmap)), patches


@pytest.mark.parametrize("backend", [None, "eager"])
def test_ops_export(backend):
    inputs = (torch.randn(2, 3, 8, 8), torch.randn(2, 6, 8, 8), torch.randn(2, 6, 8, 8))
    if backend is None:
        exported, expected = torch.export.export(Ops(), inputs).module()(*inputs), Ops()(*inputs)
    else:
        with mdnkernels.use_backend(backend):
            exported, expected = torch.export.export(Ops(), inputs).module()(*inputs), Ops()(*inputs)
    for a, e in zip(exported, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_an_index_out_of_range_in_a_compiled_graph_is_still_an_error():
    feature = torch.randn(1, 2, 3, 3)
    compiled = torch.compile(mdnkernels.gather_patches, fullgraph=True)
    compiled(feature, torch.tensor([[8, 0]]))
    with pytest.raises(RuntimeError, match="index must lie in"):
        compiled(feature, torch.tensor([[9, 0]]))


def test_use_backend_runs_that_backend_within_the_block_alone(monkeypatch):
    ran = []
    for name in ("native", "eager"):
        monkeypatch.setitem(
            backends.TABLE["topk_peaks"], name, lambda heatmap, k, *_, name=name: ran.append(name) or (heatmap,) * 3
        )
    heatmap = torch.rand(1, 1, 2, 2)
    mdnkernels.topk_peaks(heatmap, 1)
    with mdnkernels.use_backend("eager"):
        mdnkernels.topk_peaks(heatmap, 1)
        with mdnkernels.use_backend("native"):
            mdnkernels.topk_peaks(heatmap, 1)
        mdnkernels.topk_peaks(heatmap, 1)
    with pytest.raises(KeyError), mdnkernels.use_backend("eager"):
        raise KeyError
    mdnkernels.topk_peaks(heatmap, 1)
    assert ran == ["native", "eager", "native", "eager", "native"]


def test_blocks_of_two_threads_that_end_in_the_order_in_which_they_began_leave_no_choice_behind():
    before = backends.chosen()
    first, second = mdnkernels.use_backend("native"), mdnkernels.use_backend("eager")
    first.__enter__()
    second.__enter__()
    assert backends.chosen() == "eager"
    first.__exit__(None, None, None)
    assert backends.chosen() == "eager"
    second.__exit__(None, None, None)
    assert backends.chosen() == before


@pytest.fixture
def _choices_are_undone(monkeypatch):
    monkeypatch.setattr(backends, "_choices", [])
    monkeypatch.setattr(backends, "_chosen", None)


undone = pytest.mark.usefixtures("_choices_are_undone")


@undone
def test_a_plain_call_chooses_at_once_and_until_the_next():
    before = backends.chosen()
    mdnkernels.use_backend("eager")
    assert backends.select("topk_peaks", torch.zeros(1)) is backends.TABLE["topk_peaks"]["eager"]
    mdnkernels.use_backend("native")
    assert backends.select("topk_peaks", torch.zeros(1)) is backends.TABLE["topk_peaks"]["native"]
    mdnkernels.use_backend(None)
    assert backends.chosen() == before


@undone
def test_a_plain_call_with_a_wrong_name_raises_and_chooses_nothing():
    before = backends.chosen()
    with pytest.raises(ValueError, match="must be one of 'native', 'triton', 'eager', got 'cuda'"):
        mdnkernels.use_backend("cuda")
    assert backends.chosen() == before


@undone
def test_the_end_of_a_block_undoes_its_own_choice_alone():
    mdnkernels.use_backend("eager")
    with mdnkernels.use_backend("native"):
        assert backends.chosen() == "native"
    assert backends.chosen() == "eager"
    with mdnkernels.use_backend("eager"):
        mdnkernels.use_backend("native")
        assert backends.chosen() == "native"
    assert backends.chosen() == "native"


@undone
def test_without_a_name_a_block_asks_for_none():
    with mdnkernels.use_backend("eager"):
        with mdnkernels.use_backend(None):
            assert backends.chosen() is backends._from_environment
        assert backends.chosen() == "eager"


@undone
def test_the_first_of_two_blocks_of_one_backend_to_end_leaves_the_second():
    first = mdnkernels.use_backend("eager")
    first.__enter__()
    between = mdnkernels.use_backend("native")
    between.__enter__()
    second = mdnkernels.use_backend("eager")
    second.__enter__()
    first.__exit__(None, None, None)
    assert backends.chosen() == "eager"
    second.__exit__(None, None, None)
    assert backends.chosen() == "native"


@undone
def test_in_its_block_a_choice_holds_whatever_was_chosen_since_it_was_made():
    first, _second = mdnkernels.use_backend("native"), mdnkernels.use_backend("eager")
    with first:
        assert backends.chosen() == "native"
    assert backends.chosen() == "eager"
    with pytest.raises(RuntimeError, match="serves one block"), first:
        pass


@undone
def test_as_a_decorator_it_chooses_while_the_function_runs():
    before = backends.chosen()

    @mdnkernels.use_backend("eager")
    def ask(suffix):
        return backends.chosen() + suffix

    assert backends.chosen() == before
    assert [ask("!"), ask("?")] == ["eager!", "eager?"]
    assert backends.chosen() == before
    with pytest.raises(TypeError, match="not generators"):

        @mdnkernels.use_backend("eager")
        def steps():
            yield

    assert backends.chosen() == before


@undone
def test_many_threads_that_choose_at_once_leave_the_choice_from_before():
    mdnkernels.use_backend("eager")
    wrong = []

    def work(name):
        for _ in range(300):
            with mdnkernels.use_backend(name):
                if backends.chosen() not in ("native", "eager"):
                    wrong.append(backends.chosen())

    threads = [threading.Thread(target=work, args=(name,)) for name in ("native", "eager") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, backends.chosen()) == ([], "eager")


@undone
def test_a_compiled_function_follows_the_choice_and_is_compiled_once_a_backend():
    graphs = []
    compiled = torch.compile(
        lambda heatmap: mdnkernels.topk_peaks(heatmap, 2).score,
        fullgraph=True,
        backend=lambda graph, _: graphs.append(str(graph.graph)) or graph,
    )
    heatmap = torch.rand(1, 1, 4, 4)
    for _ in range(12):
        for name in ("eager", "native"):
            mdnkernels.use_backend(name)
            compiled(heatmap)
    assert ["mdnkernels.topk_peaks" in graph for graph in graphs] == [False, True]


@undone
def test_a_choice_within_a_compiled_function_holds_there():
    def peaks(heatmap):
        with mdnkernels.use_backend("eager"):
            return mdnkernels.topk_peaks(heatmap, 2).score

    before = backends.chosen()
    graphs = []
    compiled = torch.compile(peaks, fullgraph=True, backend=lambda graph, _: graphs.append(str(graph.graph)) or graph)
    compiled(torch.rand(1, 1, 4, 4))
    assert "mdnkernels" not in graphs[0]
    assert backends.chosen() == before


def test_asking_for_a_backend_that_is_not_there_says_why(monkeypatch):
    with (
        pytest.raises(ValueError, match="must be one of 'native', 'triton', 'eager', got 'cuda'"),
        mdnkernels.use_backend("cuda"),
    ):
        pass
    with pytest.raises(RuntimeError, match="only under its interpreter"), mdnkernels.use_backend("triton"):
        mdnkernels.topk_peaks(torch.rand(1, 1, 2, 2), 1)
    monkeypatch.delitem(backends.TABLE["mixture_mode"], "native")
    with mdnkernels.use_backend("native"), pytest.raises(RuntimeError, match="mixture_mode has no native"):
        mdnkernels.mixture_mode(torch.zeros(1, 2), torch.zeros(1, 2))


def test_the_environment_chooses_and_a_wrong_name_is_refused():
    code = "import mdnkernels; from mdnkernels import backends; print(backends.chosen())"
    assert python(code, MDNKERNELS_BACKEND="eager").stdout.strip() == "eager"
    wrong = python(code, MDNKERNELS_BACKEND="fast")
    assert wrong.returncode != 0
    assert "MDNKERNELS_BACKEND must be one of" in wrong.stderr


def test_without_the_native_library_the_ops_run_on_eager_and_say_so():
    code = """
import os
import pathlib
os.environ.pop("MDNKERNELS_LIBRARY", None)  # the sanitizers' build is named by it
exists = pathlib.Path.exists
pathlib.Path.exists = lambda self: False if self.name.startswith("libmdnkernels") else exists(self)
import torch, mdnkernels
from mdnkernels import backends
from mdnkernels.__main__ import report
from tests.ops.agreement import outputs_of
from tests.ops.table import OPS, Variant
print(mdnkernels.mixture_nll(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1)).item())
print(report())
try:
    with mdnkernels.use_backend("native"):
        pass
except RuntimeError as error:
    print("refused:", error)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "RuntimeWarning: mdnkernels runs on the eager backend" in done.stderr
    assert "native library: the native library was not built" in done.stdout
    assert "refused: backend 'native' was asked for, but the native library was not built" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU Triton's ops may be needed at once")
def test_without_a_gpu_the_import_leaves_triton_and_with_it_torchs_compiler_alone():
    done = python("import sys, mdnkernels; print([n for n in sys.modules if 'triton' in n and 'mdnkernels' in n])")
    assert done.stdout == "['mdnkernels.triton']\n", done.stderr


def test_report_names_every_op_and_backend():
    text = report()
    for word in (*backends.TABLE, *backends.BACKENDS, torch.__version__, "SIMD level"):
        assert word in text
