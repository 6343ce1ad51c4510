"""Progress on stderr: one line per step of work, with a spinner and a clock while it runs on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@dataclass
class ShownProgress:
    """Call it with the name of each step as it starts."""

    console: Console
    live: Progress
    started: float = field(default_factory=time.perf_counter)
    running: str = ""

    def __call__(self, step: str) -> None:
        self.finish()
        self.running, self.started = step, time.perf_counter()
        self.live.add_task(step, total=None)

    def on_step(self, steps: int) -> None:
        """Show how many steps of the running one are done."""
        for task in self.live.task_ids:
            self.live.update(task, description=f"{self.running}, {steps} steps")

    def finish(self) -> None:
        """Print what the running step took."""
        if not self.running:
            return
        for task in self.live.task_ids:
            self.live.remove_task(task)
        seconds = time.perf_counter() - self.started
        self.console.print(f"{self.running:<18} {seconds:6.1f} s", markup=False, highlight=False, soft_wrap=True)
        self.running = ""


@contextmanager
def shown_progress(first_step: str) -> Iterator[ShownProgress]:
    """Show steps until the block ends; the last step is only reported as done when nothing was raised."""
    console = Console(stderr=True)
    live = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with live:
        progress = ShownProgress(console, live)
        progress(first_step)
        yield progress
        progress.finish()
