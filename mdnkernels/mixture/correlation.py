"""Three forms of a correlation, and what takes one to the other.

`mixture_nll` takes sigma and the strictly lower entries of L: w = (I + L) diag(1 / sigma) (t - mu) is white. Then
U = (I + L) diag(1 / sigma) is the lower triangular factor with precision = U^T U, and U^-1 the Cholesky factor of the
covariance. Motion forecasting writes pairs as two standard deviations and rho.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels import checks


def covariance_from_tril(sigma: Tensor, tril: Tensor) -> Tensor:
    """Return the covariance (..., D, D) of a block of D dimensions.

    sigma: (..., D), above 0. tril: (..., D (D - 1) / 2), the strictly lower entries of L row by row. Of a Gaussian;
    another family's variance multiplies it. Raises TypeError and ValueError for other tensors.
    """
    dims = _check(sigma, tril)
    whitening = torch.eye(dims, dtype=sigma.dtype, device=sigma.device).expand(*sigma.shape[:-1], -1, -1).clone()
    rows, columns = torch.tril_indices(dims, dims, -1, device=sigma.device)
    whitening[..., rows, columns] = tril
    factor = sigma.unsqueeze(-1) * torch.linalg.solve_triangular(
        whitening, torch.eye(dims, dtype=sigma.dtype, device=sigma.device), upper=False, unitriangular=True
    )
    return factor @ factor.mT


def tril_from_covariance(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return sigma (..., D) and the entries of L (..., D (D - 1) / 2) of a covariance (..., D, D).

    Raises TypeError for what is no floating-point tensor, ValueError for another shape, and torch's own error for a
    matrix that is not positive definite.
    """
    checks.tensor("covariance", covariance, checks.FLOATS)
    if covariance.ndim < 2 or covariance.shape[-1] != covariance.shape[-2]:
        raise ValueError(f"covariance must be (..., D, D), got shape {tuple(covariance.shape)}")
    dims = covariance.shape[-1]
    factor = torch.linalg.cholesky(covariance)
    sigma = factor.diagonal(dim1=-2, dim2=-1)
    identity = torch.eye(dims, dtype=covariance.dtype, device=covariance.device)
    whitening = torch.linalg.solve_triangular(factor, identity, upper=False) * sigma.unsqueeze(-2)
    rows, columns = torch.tril_indices(dims, dims, -1, device=covariance.device)
    return sigma, whitening[..., rows, columns]


def correlation_from_tril(sigma: Tensor, tril: Tensor) -> tuple[Tensor, Tensor]:
    """Return the standard deviations (..., 2) and rho (...) of a pair of dimensions.

    sigma: (..., 2), above 0. tril: (..., 1), its one entry l. The standard deviations are sigma_1 and
    sigma_2 sqrt(1 + l^2), rho = -l / sqrt(1 + l^2). Raises TypeError and ValueError for other tensors.
    """
    if _check(sigma, tril) != 2:
        raise ValueError(f"a correlation is that of a pair: sigma must be (..., 2), got shape {tuple(sigma.shape)}")
    root = torch.sqrt(1 + tril.square())
    return torch.cat([sigma[..., :1], sigma[..., 1:] * root], -1), (-tril / root).squeeze(-1)


def tril_from_correlation(deviation: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """Return sigma (..., 2) and the entry of L (..., 1) of two standard deviations and their correlation.

    deviation: (..., 2), above 0. rho: (...), in (-1, 1). l = -rho / sqrt(1 - rho^2), sigma_1 is the first deviation and
    sigma_2 the second times sqrt(1 - rho^2). Raises TypeError and ValueError for other tensors.
    """
    checks.tensor("deviation", deviation, checks.FLOATS)
    checks.tensor("rho", rho, (deviation.dtype,), deviation)
    if deviation.ndim < 1 or deviation.shape[-1] != 2:
        raise ValueError(f"deviation must be (..., 2), got shape {tuple(deviation.shape)}")
    checks.shape("rho", rho, deviation.shape[:-1], "that of deviation but for its last dimension")
    # (1 - rho)(1 + rho) keeps the digits that 1 - rho^2 loses near 1.
    root = torch.sqrt((1 - rho) * (1 + rho)).unsqueeze(-1)
    return torch.cat([deviation[..., :1], deviation[..., 1:] * root], -1), -rho.unsqueeze(-1) / root


def _check(sigma: Tensor, tril: Tensor) -> int:
    """Check a block's sigmas and entries and return D."""
    checks.tensor("sigma", sigma, checks.FLOATS)
    if sigma.ndim < 1 or sigma.shape[-1] < 2:
        raise ValueError(f"sigma must be (..., D) with D at least 2, got shape {tuple(sigma.shape)}")
    checks.tensor("tril", tril, (sigma.dtype,), sigma)
    dims = sigma.shape[-1]
    checks.shape("tril", tril, (*sigma.shape[:-1], dims * (dims - 1) // 2), "(..., D (D - 1) / 2) for sigma's D")
    return dims
