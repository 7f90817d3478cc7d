"""What a command answers a program: one JSON document, made of typed objects; docs/programs.md names its fields."""

from __future__ import annotations

from alexnet_core.configuration.frozen import Frozen

SCHEMA_VERSION = 1


class Document(Frozen):
    """What every document says, be there an answer or not.

    Attributes:
        schema_version: Raised when a field goes or changes its meaning; a further field raises nothing.
        exit_code: Of the command.
        error: What went wrong, in one line; None where nothing did. Without an answer these three are all.
    """

    schema_version: int = SCHEMA_VERSION
    exit_code: int = 0
    error: str | None = None

    @property
    def text(self) -> str:
        """JSON in ASCII, so that any encoding of the output takes it; what is not finite is null."""
        return self.model_dump_json(indent=1, ensure_ascii=True)


class Measure(Frozen):
    """A metric over the seeds of one configuration, in the unit in which tables show it.

    Attributes:
        metric: Its name, as shown.
        unit: What it is in.
        mean: Mean over seeds; None where there is none.
        sd: Standard deviation over seeds; None for one seed.
    """

    metric: str
    unit: str
    mean: float | None = None
    sd: float | None = None
