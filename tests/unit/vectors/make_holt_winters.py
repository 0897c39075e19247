"""Makes holt_winters.json with statsmodels, which the project does not depend on.

python -m venv /tmp/v && /tmp/v/bin/pip install statsmodels==0.15.0
/tmp/v/bin/python tests/unit/vectors/make_holt_winters.py > tests/unit/vectors/holt_winters.json

The fits are `ExponentialSmoothing` and `ETSModel`, which agree on them; what is ahead is `ETSModel`'s.
"""

import json
import math
import sys

import numpy as np
import pandas as pd
import statsmodels
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.holtwinters import ExponentialSmoothing

SLOTS, MANY, AHEAD = 6, 30, 14
ALPHA, BETA, GAMMA, DAMPING = 0.4, 0.08, 0.15, 0.97  # of errors: Holt's beta is BETA / ALPHA
LEVEL, TREND = 20.0, 0.3
SEASON = [round(2 * math.sin(2 * math.pi * at / SLOTS), 3) for at in range(SLOTS)]
READINGS = [
    round(20 + 0.3 * at + 2 * math.sin(2 * math.pi * at / SLOTS) + ((7 * at * at + 3 * at) % 11 - 5) / 10, 3)
    for at in range(MANY)
]


def case(season: bool) -> dict[str, object]:
    model = {"trend": "add", "damped_trend": True, "initialization_method": "known"}
    model |= {"initial_level": LEVEL, "initial_trend": TREND}
    holt = {"smoothing_level": ALPHA, "smoothing_trend": BETA / ALPHA, "damping_trend": DAMPING}
    shares = [ALPHA, BETA, DAMPING]
    if season:
        model |= {"seasonal": "add", "seasonal_periods": SLOTS, "initial_seasonal": np.array(SEASON)}
        holt["smoothing_seasonal"] = GAMMA
        shares = [ALPHA, BETA, GAMMA, DAMPING]
    fit = ExponentialSmoothing(np.array(READINGS), **model).fit(optimized=False, **holt)
    same = ETSModel(pd.Series(READINGS), error="add", **model).smooth(shares)
    assert np.allclose(fit.fittedvalues, same.fittedvalues, atol=1e-12)
    told = same.get_prediction(start=MANY, end=MANY + AHEAD - 1)
    return {
        "fitted": [float(one) for one in fit.fittedvalues],
        "error_variance": float(same.mse),
        "ahead": [float(one) for one in told.predicted_mean],
        "ahead_variance": [float(one) for one in told.forecast_variance],
    }


def main() -> None:
    made = {
        "statsmodels": statsmodels.__version__,
        "alpha": ALPHA,
        "beta": BETA,
        "gamma": GAMMA,
        "damping": DAMPING,
        "level": LEVEL,
        "trend": TREND,
        "season": SEASON,
        "readings": READINGS,
        "with_season": case(season=True),
        "without": case(season=False),
    }
    sys.stdout.write(json.dumps(made, indent=1) + "\n")


main()
