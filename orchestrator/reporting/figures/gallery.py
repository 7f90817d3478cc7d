"""All figures of a report."""

from __future__ import annotations

from orchestrator.reporting.figures.cells import cells_figure
from orchestrator.reporting.figures.costs import costs_figure
from orchestrator.reporting.figures.curves import curves_figure
from orchestrator.reporting.figures.forest import differences_figure
from orchestrator.reporting.figures.importance import front_figure, importance_figure
from orchestrator.reporting.figures.seeds import seeds_figure
from orchestrator.reporting.figures.slices import slices_figure
from orchestrator.reporting.figures.style import Picture
from orchestrator.reporting.figures.variance import variance_figure
from orchestrator.reporting.figures.waterfall import waterfall_figure
from orchestrator.reporting.material import OF_CORE, Details, Material


def gallery(material: Material, details: Details) -> tuple[Picture, ...]:
    """Draws the figures for which there is something to show."""
    drawn = (
        waterfall_figure(material.answer),
        differences_figure(material.answer) if not material.answer.variance else variance_figure(material.answer),
        cells_figure(material.answer),
        seeds_figure(material.answer),
        curves_figure(material.answer, details.curves),
        costs_figure(material.answer) if not material.answer.variance else None,
        slices_figure(material.answer, material.points),
        importance_figure(material.answer),
        front_figure(material.answer),
        _kernels(details.kernels),
        *(
            Picture(f"{OF_CORE}{name}", name.replace("_", " "), f"{name.replace('_', ' ')}, drawn by the core", png)
            for name, png in details.pictures.items()
        ),
    )
    return tuple(picture for picture in drawn if picture is not None)


def _kernels(png: bytes | None) -> Picture | None:
    if png is None:
        return None
    alt = "The kernels of the first convolution, those of the two towers side by side"
    return Picture("kernels", "First layer", alt, png)
