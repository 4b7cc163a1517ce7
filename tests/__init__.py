"""Tests of all that the README promises; those in e2e start real processes."""

import os

# Test processes run beside each other: threads of one would wait for the cores of the others, spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
