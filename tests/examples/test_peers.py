"""What people write today and mdnkernels give the same loss and the same gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions
from torch.nn import functional

from tests.examples.peers import PAIRS, translated, winner_by_end_point

SMALL = {
    "forecasting, winner": {"batch": 5, "modes": 6, "steps": 12},
    "forecasting, all modes": {"batch": 5, "modes": 6, "steps": 12},
    "keypoints": {"batch": 7, "keypoints": 17},
    "series": {"batch": 4, "steps": 9, "components": 3},
}


def in_dtype(values: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}


@pytest.mark.parametrize("way", ["fused", "direct"])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_loss_and_gradients_are_those_of_the_usual_way(name: str, way: str, dtype: torch.dtype, tolerance: float):
    pair = PAIRS[name]
    loss = pair.fused if way == "fused" else translated(pair.own, pair.direct)
    drawn, data = (in_dtype(values, dtype) for values in pair.draw(torch.float64, **SMALL[name]))

    def differentiated(loss, dtype: torch.dtype) -> tuple[Tensor, ...]:
        parameters = {key: value.requires_grad_() for key, value in in_dtype(drawn, dtype).items()}
        value = loss(parameters, in_dtype(data, dtype))
        return value, *torch.autograd.grad(value, list(parameters.values()))

    names = ("loss", *drawn)
    expected, given = differentiated(pair.usual, torch.float64), differentiated(loss, dtype)
    for key, value, exact in zip(names, given, expected, strict=True):
        assert exact.abs().max() > 1e-3, key
        torch.testing.assert_close(
            value.double(), exact, rtol=tolerance, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_the_usual_forecasting_is_a_bivariate_normal_and_a_cross_entropy():
    parameters, data = PAIRS["forecasting, winner"].draw(torch.float64, **SMALL["forecasting, winner"])
    winner = winner_by_end_point(parameters["paths"][..., :2], data)
    total = functional.cross_entropy(parameters["scores"], winner, reduction="sum")
    for b in range(len(winner)):
        for t in range(12):
            if data["seen"][b, t]:
                x, y, log_std_x, log_std_y, rho = parameters["paths"][b, winner[b], t].tolist()
                mixed = rho * math.exp(log_std_x + log_std_y)
                covariance = [[math.exp(2 * log_std_x), mixed], [mixed, math.exp(2 * log_std_y)]]
                normal = distributions.MultivariateNormal(
                    torch.tensor([x, y], dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64)
                )
                total = total - normal.log_prob(data["truth"][b, t])
    torch.testing.assert_close(PAIRS["forecasting, winner"].usual(parameters, data), total / len(winner))


def test_the_winner_ends_nearest_at_the_last_step_that_was_seen():
    places = torch.zeros(2, 3, 4, 2)
    places[:, 1] = 1.0
    places[:, 2, 2:] = 2.0
    seen = torch.tensor([[True, True, False, False], [True, False, True, False]])
    assert winner_by_end_point(places, {"truth": torch.full((2, 4, 2), 1.9), "seen": seen}).tolist() == [1, 2]


def test_the_usual_keypoints_are_normals_of_this_precision():
    parameters, data = PAIRS["keypoints"].draw(torch.float64, **SMALL["keypoints"])
    factor = torch.diag_embed(parameters["log_diagonal"].exp())
    factor[..., 1, 0] = parameters["below"]
    normal = distributions.MultivariateNormal(parameters["loc"], precision_matrix=factor @ factor.mT)
    visible = data["visible"]
    expected = -normal.log_prob(data["target"])[visible].sum() / visible.any(1).sum()
    torch.testing.assert_close(PAIRS["keypoints"].usual(parameters, data), expected)
