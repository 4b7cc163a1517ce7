"""`python -m pipelines STEP --name value …`: checks the parameters first, imports what is heavy later."""

from __future__ import annotations

import sys

from pipelines import launch

if __name__ == "__main__":
    sys.exit(launch.run(sys.argv[1:]))
