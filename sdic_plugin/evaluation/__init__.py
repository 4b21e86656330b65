"""Metrics and evaluation."""

from sdic_plugin.evaluation.macs import count_macs
from sdic_plugin.evaluation.metrics import EditTransfer, edit_effect, edit_transfer, mean_absolute_error, psnr, ssim
from sdic_plugin.evaluation.reports import BaselineReport, EditReport, EvaluationReport, Statistic, evaluate
from sdic_plugin.evaluation.w_optimization import OptimizationResult, optimize_w

__all__ = [
    "BaselineReport",
    "EditReport",
    "EditTransfer",
    "EvaluationReport",
    "OptimizationResult",
    "Statistic",
    "count_macs",
    "edit_effect",
    "edit_transfer",
    "evaluate",
    "mean_absolute_error",
    "optimize_w",
    "psnr",
    "ssim",
]
