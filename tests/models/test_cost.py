"""The cost of a network, and the command that prints it."""

import pytest

from mdnkernels.models import build_model
from mdnkernels.models.__main__ import main
from mdnkernels.models.cost import count

DENSE, TRAINING, INFERENCE = "dense", "sparse, training", "sparse, inference"

# In units of 1e9, at 512 x 512, as the design gives them.
DESIGN = [
    ("hourglass104", "detection", 3, {DENSE: 331, TRAINING: 254, INFERENCE: 244}),
    ("hourglass104", "pose", 3, {DENSE: 390, TRAINING: 274, INFERENCE: 254}),
    ("dla34", "detection", 3, {DENSE: 38.0, TRAINING: 28.3, INFERENCE: 28.3}),
    ("dla34", "detection", 0, {DENSE: 33.1}),
]


@pytest.mark.parametrize(("arch", "task", "components", "expected"), DESIGN)
def test_multiply_accumulates_are_the_designs(arch: str, task: str, components: int, expected: dict) -> None:
    pose = task == "pose"
    cost = count(
        lambda: build_model(arch, task=task, num_classes=1 if pose else 80, components=components),
        size=512,
        objects=32 if pose else 128,
    )
    for name, value in expected.items():
        assert cost.multiply_accumulates[name] / 1e9 == pytest.approx(value, rel=0.01), name


def test_a_deformable_convolution_costs_what_a_plain_one_does() -> None:
    cost = count(lambda: build_model("dla34", num_classes=1, components=0), size=32)
    double = count(lambda: build_model("dla34", num_classes=1, components=0), size=64)
    assert double.multiply_accumulates[DENSE] == 4 * cost.multiply_accumulates[DENSE]


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture) -> None:
    assert main(["hourglass_small", "pose", "--components", "2", "--size", "64"]) == 0
    printed = capsys.readouterr().out
    lines = {line.split("  ")[0]: line.split() for line in printed.splitlines() if line}
    with_two = build_model("hourglass_small", task="pose", components=2)
    assert lines["parameters"][-1] == f"{sum(p.numel() for p in with_two.parameters()):,}"
    assert {"GMAC dense", "GMAC sparse, training", "GMAC sparse, inference"} <= set(lines)
    assert "loc                (1, 68, 16, 16)        (1, 68, 32)" in printed
    assert "keypoint_offset    (1, 2, 16, 16)         (1, 2, 544)" in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["dla34", "detection", "--size", "500"], "multiples of 32"),
        (["dla34", "pose", "--classes", "3"], "pose' has one class"),
        (["dla34", "pose", "--components", "-1"], "components must be 0"),
    ],
)
def test_a_network_that_cannot_be_is_an_error_in_a_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "named"), [(["resnet", "pose"], "hourglass104"), (["dla34", "pose", "--size", "0"], "--size")]
)
def test_a_wrong_option_is_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert named in capsys.readouterr().err
