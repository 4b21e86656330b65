"""Directions from scores or labels of pictures: a linear fit on latents, as InterFaceGAN (Shen et al., 2020) does.

A fit finds the normal b of a boundary, or of a slope: score ≈ ⟨latents, b⟩ + c. The edit then is not b itself but Σ b,
Σ being the covariance of the latents, scaled to one standard deviation: the mean change of latents as the score
rises by one standard deviation, which stays among latents that the generator knows. (b alone points wherever the
score would rise fastest, however unusual those latents are.) Conditional projection removes what another attribute's
fit would see: the direction d is made to satisfy ⟨d, b_other⟩ = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sdic_plugin.edits.interfacegan import DirectionEdit
from sdic_plugin.errors import EditError
from sdic_plugin.utils.seeds import seeded_rng

METHODS = ("regression", "svm")
SMALLEST_SET = 16


@dataclass(frozen=True)
class FitConfig:
    """How directions are fitted.

    Attributes:
        method: "regression" (least squares on the scores) or "svm" (squared hinge loss on two classes: a linear
            support vector machine).
        ridge: Variance added to every axis of the latents, as a share of their mean variance; more for few pictures.
        margin_share: For "svm" on scores that are no labels: the share of pictures at either end that form a class.
        held_out: Share of the pictures that only judge the fit.
        seed: Seed of the split into training and held-out pictures.
    """

    method: str = "regression"
    ridge: float = 0.1
    margin_share: float = 0.3
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise EditError for values that make no sense."""
        if self.method not in METHODS:
            raise EditError(f"The method {self.method!r} is unknown: name {' or '.join(map(repr, METHODS))}.")
        if self.ridge <= 0 or not 0 < self.margin_share <= 0.5 or not 0 < self.held_out < 1:
            raise EditError(
                f"The fit was given ridge {self.ridge}, margin_share {self.margin_share} and held_out "
                f"{self.held_out}: give ridge > 0, margin_share up to 0.5 and held_out between 0 and 1."
            )


@dataclass(frozen=True)
class FitReport:
    """How well a fit does on pictures it has not seen.

    Attributes:
        name: The attribute.
        method: "regression" or "svm", as in `FitConfig`.
        train_count: Pictures fitted on.
        test_count: Pictures held out.
        accuracy: Share of held-out pictures put on the right side: of the labels, or of the median score.
        correlation: Correlation of prediction and score, on held-out pictures.
        leakage: By other attribute: how far its predicted score moves, in its standard deviations, for each standard
            deviation of this one; before projection.
    """

    name: str
    method: str
    train_count: int
    test_count: int
    accuracy: float
    correlation: float
    leakage: dict[str, float]


def fit_attributes(
    latents: torch.Tensor,
    scores: Mapping[str, torch.Tensor],
    apart_from: Mapping[str, Sequence[str]] | None = None,
    config: FitConfig | None = None,
) -> tuple[list[DirectionEdit], list[FitReport]]:
    """Find one direction per attribute.

    Args:
        latents: [N, D] (W) or [N, num_styles, D] (W+).
        scores: By attribute, [N]: any numbers, or labels 0 and 1; NaN where unknown.
        apart_from: By attribute, the other attributes it must leave alone (conditional projection).
        config: None for the defaults.

    Returns:
        Edits whose strength 1 is one standard deviation, in W for [N, D], else in W+; and a report on each.

    Raises:
        EditError: If there are too few pictures, a score is the same everywhere, or a name is unknown.
    """
    config = config or FitConfig()
    x = latents.detach().cpu().float().reshape(len(latents), -1)
    if not torch.isfinite(x).all() or latents.ndim not in (2, 3):
        raise EditError("The latents hold values that are not finite, or are not [N, D] or [N, num_styles, D].")
    scores = {name: _check_scores(name, values, len(x)) for name, values in scores.items()}
    space = _LatentSpace(x, config.ridge)
    test = torch.rand(len(x), generator=seeded_rng(config.seed)) < config.held_out
    normals, reports = {}, []
    for name, values in scores.items():
        normals[name], report = _fit(space, name, values, test, config)
        reports.append(report)
    reports = [_with_leakage(report, normals, space) for report in reports]
    shape = (1, latents.shape[-1]) if latents.ndim == 2 else tuple(latents.shape[1:])
    edits = []
    for name, normal in normals.items():
        left_alone = (apart_from or {}).get(name, ())
        others = _others(name, left_alone, normals)
        direction = space.direction(normal, others).reshape(shape)
        edits.append(
            DirectionEdit(
                name,
                space="W" if shape[0] == 1 else "W+",
                default_strength=2.0,
                strength_range=(-4.0, 4.0),
                description=f"{name}: linear fit ({config.method})"
                + (f", leaving {', '.join(left_alone)} alone" if others else ""),
                tensors={"direction": direction},
            )
        )
    return edits, reports


class _LatentSpace:
    """Latents in whitened coordinates u, and the way back: x = mean + u · scale · axes, up to the ridge."""

    def __init__(self, x: torch.Tensor, ridge: float) -> None:
        self.mean = x.mean(dim=0)
        _, values, self.axes = torch.linalg.svd(x - self.mean, full_matrices=False)  # rows of axes: [K, F]
        self.variance = values.square() / len(x)
        self.scale = (self.variance + ridge * self.variance.mean()).sqrt()
        self.whitened = (x - self.mean) @ self.axes.T / self.scale

    def moved(self, normal: torch.Tensor) -> torch.Tensor:
        """Σ b in whitened coordinates: how latents change, on average, with the score of the whitened normal."""
        return normal * self.variance / self.scale.square()

    def direction(self, normal: torch.Tensor, others: Sequence[torch.Tensor]) -> torch.Tensor:
        """One standard deviation along a normal, among latents where the normals `others` see nothing: [F]."""
        for other in _orthogonal(others, self):
            normal = normal - other * (other @ self.moved(normal)) / (other @ self.moved(other))
        step = self.moved(normal)
        spread = (normal @ step).sqrt()
        if spread < 1e-6:
            raise EditError("Nothing is left of a direction once the others are taken out: leave fewer alone.")
        return (step / spread * self.scale) @ self.axes


def _orthogonal(normals: Sequence[torch.Tensor], space: _LatentSpace) -> list[torch.Tensor]:
    """Make normals uncorrelated (Gram-Schmidt in the metric of the latents' covariance)."""
    found: list[torch.Tensor] = []
    for normal in normals:
        rest = normal
        for other in found:
            rest = rest - other * (other @ space.moved(rest)) / (other @ space.moved(other))
        if rest @ space.moved(rest) > 1e-6 * (normal @ space.moved(normal)):
            found.append(rest)
    return found


def _others(name: str, wanted: Sequence[str], normals: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    unknown = [other for other in wanted if other not in normals or other == name]
    if unknown:
        raise EditError(f"{name!r} cannot leave {unknown} alone: scores are there for {sorted(normals)}.")
    return [normals[other] for other in wanted]


def _check_scores(name: str, values: torch.Tensor, count: int) -> torch.Tensor:
    values = torch.as_tensor(values).detach().cpu().double().flatten()
    known = values[torch.isfinite(values)]
    if len(values) != count:
        raise EditError(f"The attribute {name!r} has {len(values)} scores for {count} pictures: give one each.")
    if len(known) < SMALLEST_SET or known.std() < 1e-12:
        raise EditError(
            f"The attribute {name!r} has {len(known)} scores from {known.min() if len(known) else 0:g} to "
            f"{known.max() if len(known) else 0:g}: at least {SMALLEST_SET} pictures that differ are needed."
        )
    return values


def _fit(
    space: _LatentSpace, name: str, values: torch.Tensor, test: torch.Tensor, config: FitConfig
) -> tuple[torch.Tensor, FitReport]:
    """Fit a whitened normal on the training part, and judge it on the rest."""
    known = torch.isfinite(values)
    train, test = known & ~test, known & test
    middle = 0.5 if is_label(values[known]) else values[known].median().item()
    classes = values > middle
    if any(int((classes[part] == side).sum()) < 2 for part in (train, test) for side in (False, True)):
        raise EditError(f"The attribute {name!r} has too few pictures on one side: give more of both kinds.")
    u, scores = space.whitened[train].double(), values[train]
    if config.method == "regression":
        scores = (scores - scores.mean()) / scores.std()
        normal = torch.linalg.solve(u.T @ u + len(u) * 0.01 * torch.eye(u.shape[1]).double(), u.T @ scores)
    else:
        normal = _svm(*_ends(u, scores, middle, config.margin_share))
    normal = (normal / normal.norm()).float()
    predicted = space.whitened[test] @ normal
    offset = _threshold(space.whitened[train] @ normal, classes[train])
    accuracy = ((predicted > offset) == classes[test]).float().mean().item()
    correlation = torch.corrcoef(torch.stack([predicted.double(), values[test]]))[0, 1].item()
    return normal, FitReport(name, config.method, int(train.sum()), int(test.sum()), accuracy, correlation, {})


def _threshold(predicted: torch.Tensor, classes: torch.Tensor) -> float:
    """The value halfway between the means of the two classes."""
    return ((predicted[classes].mean() + predicted[~classes].mean()) / 2).item()


def is_label(values: torch.Tensor) -> bool:
    """Whether scores [N] are labels: nothing but 0 and 1."""
    return set(values.unique().tolist()) <= {0.0, 1.0}


def _ends(u: torch.Tensor, scores: torch.Tensor, middle: float, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of two classes and their signs: those with labels, or with the highest and lowest scores."""
    if is_label(scores):
        return u, (scores > middle).double() * 2 - 1
    order, count = scores.argsort(), max(2, int(share * len(scores)))
    chosen = torch.cat([order[:count], order[-count:]])
    return u[chosen], torch.cat([-torch.ones(count), torch.ones(count)]).double()


def _svm(u: torch.Tensor, signs: torch.Tensor, penalty: float = 0.01, steps: int = 100) -> torch.Tensor:
    """Normal of a linear support vector machine with squared hinge loss; both classes weigh the same."""
    weights = torch.zeros(u.shape[1] + 1, dtype=torch.double, requires_grad=True)
    shares = torch.where(signs > 0, 0.5 / (signs > 0).sum(), 0.5 / (signs < 0).sum())
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        margins = 1 - signs * (u @ weights[:-1] + weights[-1])
        loss = (shares * margins.clamp(min=0).square()).sum() + penalty * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()[:-1]


def _with_leakage(report: FitReport, normals: Mapping[str, torch.Tensor], space: _LatentSpace) -> FitReport:
    own = normals[report.name]
    leakage = {
        name: (other @ space.moved(own) / ((other @ space.moved(other)) * (own @ space.moved(own))).sqrt()).item()
        for name, other in normals.items()
        if name != report.name
    }
    return FitReport(**{**vars(report), "leakage": leakage})
