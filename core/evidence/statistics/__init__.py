"""The statistics of the evidence kernel: pure functions over numbers, no Django.

Each is checked in tests against scipy or statsmodels, against hand cases and against its definition written
out.
How verdicts use them: docs/design/evidence.md.
"""

from core.evidence.statistics.multiplicity import holm
from core.evidence.statistics.paired import (
    CONTINUITY,
    BinaryTest,
    MeanTest,
    log_ratio_test,
    mcnemar_exact,
    mean_test,
    non_inferiority_binary,
    non_inferiority_continuous,
    tango_bound,
    tango_interval,
    tango_score,
)
from core.evidence.statistics.percentiles import (
    PercentileTest,
    paired_percentile_test,
    percentile,
    percentile_interval,
    percentile_n_needed,
    ratio_interval,
)
from core.evidence.statistics.power import (
    paired_binary_detectable,
    paired_binary_n_needed,
    paired_binary_power,
    paired_continuous_detectable,
    paired_continuous_n_needed,
    paired_continuous_power,
)
from core.evidence.statistics.proportions import clopper_pearson_interval, wilson_interval
from core.evidence.statistics.resampling import (
    DEFAULT_RESAMPLES,
    Resampler,
    bootstrap_interval,
    cluster_bootstrap_interval,
    resample_indices,
    splitmix64,
)
from core.evidence.statistics.types import InsufficientEvidence, Interval

__all__ = [
    "CONTINUITY",
    "DEFAULT_RESAMPLES",
    "BinaryTest",
    "InsufficientEvidence",
    "Interval",
    "MeanTest",
    "PercentileTest",
    "Resampler",
    "bootstrap_interval",
    "clopper_pearson_interval",
    "cluster_bootstrap_interval",
    "holm",
    "log_ratio_test",
    "mcnemar_exact",
    "mean_test",
    "non_inferiority_binary",
    "non_inferiority_continuous",
    "paired_binary_detectable",
    "paired_binary_n_needed",
    "paired_binary_power",
    "paired_continuous_detectable",
    "paired_continuous_n_needed",
    "paired_continuous_power",
    "paired_percentile_test",
    "percentile",
    "percentile_interval",
    "percentile_n_needed",
    "ratio_interval",
    "resample_indices",
    "splitmix64",
    "tango_bound",
    "tango_interval",
    "tango_score",
    "wilson_interval",
]
