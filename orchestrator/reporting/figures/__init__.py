"""The figures of a report, each a pure function from an answer's data to a picture."""

from __future__ import annotations

from alexnet_core.process.plotting import load_matplotlib

load_matplotlib()
