"""What a person sees while stages run: bars in a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from flows.outcome import StageOutcome

# What the stages print: `train_vqvae 120/400 (30%) 4.1 it/s 68 s left loss=0.013`
STEP = re.compile(r"(\d+)/(\d+) \(\s*(\d+)\s*%\)\s*(.*)")
QUIET = 10.0  # seconds between two progress lines of a stage where there is no terminal
MARKS = {"ran": "[green]✓", "restored": "[green]✓", "skipped": "[dim]-", "failed": "[red]✗",
         "not run": "[dim]-", "stopped": "[yellow]-"}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """Progress of a stage: `done` of `total` steps, and the rest of the line (rate, time left, loss)."""

    done: int
    total: int
    text: str

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100 * self.done / self.total if self.total else 0.0


def parse(line: str) -> Step | None:
    """Return the progress that a line reports, None when it is something else."""
    match = STEP.search(line)
    return Step(int(match[1]), int(match[2]), match[4].strip()) if match else None


class Reporter:
    """Shows stages as they start, move and end. Safe to call from several threads."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._lock = threading.Lock()
        self._bars: dict[str, TaskID] = {}
        self._last: dict[str, float] = {}
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Reporter:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """Say one line."""
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def start(self, name: str, reason: str) -> None:
        """Show that the stage `name` starts, and why."""
        with self._lock:
            if self.console.is_terminal:
                self._bars[name] = self._live.add_task(name, total=None, text=escape(reason))
            else:
                self.note(f"> {name}: {reason}")

    def line(self, name: str, line: str) -> None:
        """Take one line that the stage printed; progress moves the bar."""
        step = parse(line)
        if step is None:
            return
        with self._lock:
            if name in self._bars:
                text = escape(step.text)
                self._live.update(self._bars[name], completed=step.done, total=step.total, text=text)
            elif time.monotonic() - self._last.get(name, 0.0) >= QUIET:
                self._last[name] = time.monotonic()
                self.note(f"  {name} {step.done}/{step.total} ({step.percent:.0f}%) {step.text}")

    def end(self, outcome: StageOutcome) -> None:
        """Show how a stage ended."""
        with self._lock:
            if outcome.name in self._bars:
                self._live.remove_task(self._bars.pop(outcome.name))
            mark = MARKS[outcome.state]
            told = f"{outcome.name} {outcome.state} in {outcome.seconds:.1f} s: {outcome.reason}"
            if outcome.state in ("skipped", "not run"):
                told = f"{outcome.name} {outcome.state}: {outcome.reason}"
            self.console.print(f"{mark}[/] {escape(told)}", highlight=False, soft_wrap=True)
