"""Sweeps: `python -m tune.sweep`. Importing `pipelines` sets up the process."""

import pipelines  # noqa: F401
