"""The application: `python -m pipelines.COMMAND`.

Ray's workers import it, too, and libraries read the environment when they are first imported.
"""

from rwsa.machine import repair_environment

repair_environment()
