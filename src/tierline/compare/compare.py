"""One plan, three times: by formula, in virtual time, for real."""

from collections.abc import Callable
from dataclasses import dataclass

from tierline.compare.forecast import Figures, Forecast, predict, workload
from tierline.compare.passes import DISK
from tierline.run.generate import Emit
from tierline.run.report import RunReport
from tierline.run.request import Request
from tierline.run.session import Session
from tierline.run.weights import Progress


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity in `unit`, by plan, simulation and measurement; None where it is not known."""

    quantity: str
    unit: str
    planned: float | None
    simulated: float | None
    measured: float | None

    @property
    def error_fraction(self) -> float | None:
        """(planned - measured) / measured; a fraction of time is compared by difference."""
        return self._error(self.planned)

    @property
    def simulated_error_fraction(self) -> float | None:
        """(simulated - measured) / measured; a fraction of time is compared by difference."""
        return self._error(self.simulated)

    def _error(self, predicted: float | None) -> float | None:
        if predicted is None or self.measured is None:
            return None
        if self.unit == FRACTION:  # a stall of nothing has no relative error
            return predicted - self.measured
        if not self.measured:
            return 0.0 if not predicted else None
        return (predicted - self.measured) / self.measured


FRACTION = "fraction"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run beside what was predicted before it began."""

    forecast: Forecast
    report: RunReport

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every quantity, in the order in which one asks."""
        link = f"link:{self.forecast.link}"
        host = self.forecast.planned.host_read_bytes_per_token is not None
        looks = self.forecast.planned.prompt_read_bytes is not None
        return (
            self._row("first token rate", "tok/s", _first_rate),
            *((self._row("prompt bytes", "B", _prompt_read_bytes),) if looks else ()),
            self._row("decode rate", "tok/s", lambda f: f.tokens_per_s),
            self._row(f"{link} bytes per token", "B", lambda f: f.read_bytes_per_token),
            *((self._row(f"link:{DISK} bytes per token", "B", _host_read_bytes),) if host else ()),
            self._row(f"{link} busy share", FRACTION, lambda f: f.link_busy_fraction),
            self._row("stall share", FRACTION, lambda f: f.stall_fraction),
            self._row("peak memory", "B", lambda f: f.peak_bytes),
        )

    def _row(self, quantity: str, unit: str, of: Callable[[Figures], float | None]) -> Row:
        columns = (self.forecast.planned, self.forecast.simulated, measured_figures(self.report))
        return Row(quantity, unit, *(of(column) for column in columns))


def measured_figures(report: RunReport) -> Figures:
    """Return the column of a finished run."""
    return Figures(
        first_token_s=report.time_to_first_token_s,
        tokens_per_s=report.tokens_per_s_steady,
        read_bytes_per_token=report.read_bytes_per_token,
        link_busy_fraction=report.link_busy_fraction,
        stall_fraction=report.stall_fraction,
        peak_bytes=report.measured_bytes,
        host_read_bytes_per_token=report.host_read_bytes_per_token,
        prompt_read_bytes=report.prompt_read_bytes,
    )


def compare(session: Session, request: Request, *, progress: Progress, emit: Emit) -> Comparison:
    """Load the model, fix what both predictions follow from, run it; raises as `Session.answer` does.

    The simulation itself, a function of those numbers alone, comes last: what it takes of memory is not what
    the run was allowed.
    """
    prepared = session.prepare(request, progress)
    work = workload(session, prepared)
    report = session.execute(prepared, emit)
    assert session.engine.weights is not None  # noqa: S101 - it has run
    return Comparison(predict(session.engine.weights.plan, work, prepared.prediction), report)


def _host_read_bytes(figures: Figures) -> float | None:
    return figures.host_read_bytes_per_token


def _prompt_read_bytes(figures: Figures) -> float | None:
    return figures.prompt_read_bytes


def _first_rate(figures: Figures) -> float | None:
    return 1 / figures.first_token_s if figures.first_token_s else None
