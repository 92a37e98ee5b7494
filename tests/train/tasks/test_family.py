"""--family: from the option to the network, and from there to loss, checkpoint and everyone who restores it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily

from mdnkernels import Family, Gaussian, Laplace, StudentT
from mdnkernels.mixture.families import FAMILIES, family_of
from mdnkernels.models import MixtureRegression
from mdnkernels.models.network import Network
from mdnkernels.train.config.options import ModelConfig
from mdnkernels.train.data.coco import Category
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.network import restore_network
from mdnkernels.train.run.checkpoint import load_checkpoint
from mdnkernels.train.tasks import make_task
from mdnkernels.train.tasks.detection import DetectionCriterion, DetectionTargets
from tests.train.drawn_data import DataPaths, tiny_fit


def restored_family(model: Network) -> Family:
    assert isinstance(model.regression, MixtureRegression)
    return family_of(model.regression.spec.family)


def laplace_loss(output: dict[str, Tensor], targets: DetectionTargets) -> Tensor:
    """Compute the loss by torch.distributions in float64, object by object."""
    values = []
    for image, point in (targets.index >= 0).nonzero().tolist():
        logits, loc, raw = (output[name][image, :, point].double() for name in ("logits", "loc", "scale"))
        sigma = torch.nn.functional.elu(raw) + 1 + 1.0
        sizes = Independent(torch.distributions.Laplace(loc.view(2, 2), sigma.view(2, 2)), 1)
        mixture = MixtureSameFamily(Categorical(logits=logits), sizes)
        values.append(-mixture.log_prob(targets.size[image, :, point].double()))
    return torch.stack(values).mean()


@pytest.fixture(scope="module")
def run(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[Tensor, Tensor]]]:
    """Make a run of a few steps with Laplace; give each step's loss beside torch's of the same outputs and targets."""
    losses = []

    def recorded(self: DetectionCriterion, outputs: list[dict[str, Tensor]], targets: Any) -> dict[str, Tensor]:
        found = forward(self, outputs, targets)
        one = [{name: values.detach() for name, values in output.items()} for output in outputs]
        expected = torch.stack([laplace_loss(output, targets) for output in one]).mean()
        losses.append((found["mixture"].detach().double(), expected))
        return found

    forward = DetectionCriterion.forward
    folder = tmp_path_factory.mktemp("laplace") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionCriterion, "forward", recorded)
        return fit(tiny_fit(drawn, folder, family="laplace", epochs=1, drop_epochs=(), batch=2)), losses


def test_training_minimises_the_laplace_mixture(run: tuple[Path, list[tuple[Tensor, Tensor]]]) -> None:
    _, losses = run
    assert len(losses) >= 3
    for found, expected in losses:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_configuration_and_checkpoint_keep_the_family(run: tuple[Path, list[tuple[Tensor, Tensor]]]) -> None:
    folder, _ = run
    assert json.loads((folder / "config.json").read_text())["model"]["family"] == "laplace"
    checkpoint = load_checkpoint(folder / "checkpoints" / "last.pt")
    model, task = restore_network(checkpoint)
    assert restored_family(model) == Laplace()
    criterion = task.criterion(model, checkpoint.config.optimizer)
    assert criterion.regression is model.regression


def test_checkpoint_that_names_no_family_is_of_gaussians(
    run: tuple[Path, list[tuple[Tensor, Tensor]]], tmp_path: Path
) -> None:
    content = torch.load(run[0] / "checkpoints" / "last.pt", weights_only=True)
    del content["config"]["model"]["family"]
    torch.save(content, tmp_path / "old.pt")
    model, _ = restore_network(load_checkpoint(tmp_path / "old.pt"))
    assert restored_family(model) == Gaussian()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "cauchy"}, r"--family: family must be .*'laplace'.*got 'cauchy'"),
        ({"family": "laplace", "components": 0}, r"--family: family Laplace\(\) needs a mixture"),
        ({"family": "student_t"}, r"--family: family 'student_t': .*student_t:4 for 4 degrees of freedom"),
        ({"family": "student_t:x"}, r"--family: family 'student_t:x': .*student_t:4"),
        ({"family": "student_t:-1"}, r"--family: df must be finite and at least 1e-30, got -1.0"),
        ({"family": "laplace:2"}, r"--family: family 'laplace:2': write a name of gaussian, laplace, student_t"),
    ],
)
def test_a_family_that_cannot_be_is_named_before_a_run_is_made(
    changes: dict[str, Any], message: str, drawn: DataPaths, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(tiny_fit(drawn, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_help_names_the_ops_families_and_which_has_a_parameter() -> None:
    """The command line answers without importing torch, and so cannot ask the op."""
    option = get_type_hints(ModelConfig, include_extras=True)["family"]
    listed = option.__metadata__[0].metavar.strip("{}").split(",")
    fields = {name: [field.name.upper() for field in dataclasses.fields(kind)] for name, kind in FAMILIES.items()}
    assert listed == [":".join([name, *parameters]) for name, parameters in fields.items()]


@pytest.mark.parametrize(
    ("text", "family"), [("gaussian", Gaussian()), ("laplace", Laplace()), ("student_t:4.5", StudentT(df=4.5))]
)
def test_the_option_names_any_family(text: str, family: Family) -> None:
    model = make_task("pose", [Category(1, "person")]).build_model(ModelConfig(task="pose", family=text))
    assert isinstance(model.regression, MixtureRegression)
    assert family_of(model.regression.spec.family) == family
