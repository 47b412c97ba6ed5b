"""Code of a registered MLflow model: recordings in, enhanced recordings out.

MLflow stores a copy of this file in each model and executes it when the model is loaded. It needs `rwsa`
installed, not this checkout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

import rwsa
from rwsa.errors import InputError

WEIGHTS = "weights"
WAV, SAMPLE_RATE_HZ = "wav", "sample_rate_hz"


class EnhancementModel(PythonModel):
    """`rwsa.enhance` for a table of recordings."""

    def load_context(self, context: Any) -> None:
        """Load the weights that were logged with the model."""
        self._model = rwsa.load_model(context.artifacts[WEIGHTS])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Enhance recordings, each on its own.

        Args:
            context: unused.
            model_input: one row per recording: `wav` (samples of one channel, full scale ±1, any length) and
                `sample_rate_hz`.
            params: unused.

        Returns:
            The same table with enhanced samples of the same lengths.

        Raises:
            MlflowException: a recording is empty or contains NaN, or its rate is not positive; names the row.
        """
        enhanced = [
            self._enhanced(row, wav, rate_hz)
            for row, (wav, rate_hz) in enumerate(
                zip(model_input[WAV], model_input[SAMPLE_RATE_HZ], strict=True)
            )
        ]
        return pd.DataFrame({WAV: enhanced, SAMPLE_RATE_HZ: model_input[SAMPLE_RATE_HZ].to_numpy()})

    def _enhanced(self, row: int, wav: Any, rate_hz: Any) -> list[float]:
        try:
            return rwsa.enhance(np.asarray(wav, dtype=np.float32), int(rate_hz), self._model).tolist()
        except InputError as error:
            raise MlflowException(f"row {row}: {error}", INVALID_PARAMETER_VALUE) from error


set_model(EnhancementModel())
