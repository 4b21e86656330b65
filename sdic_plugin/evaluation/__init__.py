"""Metrics and evaluation."""

from sdic_plugin.evaluation.frechet import frechet_distance
from sdic_plugin.evaluation.generators import JudgedGenerators, SamplingPlan, judge_generators
from sdic_plugin.evaluation.identity import IdentityNetwork, load_identity
from sdic_plugin.evaluation.inception import FIDInception, load_inception
from sdic_plugin.evaluation.kernel import kernel_distance
from sdic_plugin.evaluation.lpips import LPIPS, load_lpips
from sdic_plugin.evaluation.macs import count_macs
from sdic_plugin.evaluation.nearest import Neighbours, nearest_images, nearest_sheet
from sdic_plugin.evaluation.networks import (
    DiscriminatorFeatures,
    EfficientNetFeatures,
    EvaluationNetworks,
    find_networks,
    load_judge,
)
from sdic_plugin.evaluation.output import describe_revision, write_evaluation
from sdic_plugin.evaluation.reports import (
    BaselineReport,
    DistanceReport,
    EditReport,
    EvaluationReport,
    RowReport,
    SamplesReport,
    Statistic,
    TransferReport,
)
from sdic_plugin.evaluation.rows import METHODS, Method, Optimization
from sdic_plugin.evaluation.runner import EvaluationPlan, evaluate
from sdic_plugin.evaluation.w_optimization import OptimizationResult, optimize_w
from sdic_plugin.images.metrics import (
    EditTransfer,
    edit_effect,
    edit_transfer,
    mean_absolute_error,
    ms_ssim,
    mse,
    psnr,
    round_to_uint8,
    ssim,
)

__all__ = [
    "LPIPS",
    "METHODS",
    "BaselineReport",
    "DiscriminatorFeatures",
    "DistanceReport",
    "EditReport",
    "EditTransfer",
    "EfficientNetFeatures",
    "EvaluationNetworks",
    "EvaluationPlan",
    "EvaluationReport",
    "FIDInception",
    "IdentityNetwork",
    "JudgedGenerators",
    "Method",
    "Neighbours",
    "Optimization",
    "OptimizationResult",
    "RowReport",
    "SamplesReport",
    "SamplingPlan",
    "Statistic",
    "TransferReport",
    "count_macs",
    "describe_revision",
    "edit_effect",
    "edit_transfer",
    "evaluate",
    "find_networks",
    "frechet_distance",
    "judge_generators",
    "kernel_distance",
    "load_identity",
    "load_inception",
    "load_judge",
    "load_lpips",
    "mean_absolute_error",
    "ms_ssim",
    "mse",
    "nearest_images",
    "nearest_sheet",
    "optimize_w",
    "psnr",
    "round_to_uint8",
    "ssim",
    "write_evaluation",
]
