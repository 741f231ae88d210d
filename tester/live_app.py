"""The live table on a terminal (Textual). Imported only by ``outrider uds live``."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.app import App, ComposeResult
from textual.widgets import DataTable, Footer, Header, Static

from tester.live import Board, CsvRecording
from tester.output import printable

_COLUMNS = ("Source", "Name", "Value", "Unit", "Min", "Max", "Trend")
REFRESH_S = 0.2


class LiveApp(App[None]):
    """Shows a board while a source fills it. ``feed`` runs until the table is closed."""

    BINDINGS = [  # noqa: RUF012  # Textual's own way
        ("p", "pause", "pause"),
        ("r", "reset", "reset min/max"),
        ("c", "record", "record CSV"),
        ("q", "quit", "quit"),
    ]
    CSS = "DataTable { height: 1fr; } #state { height: 1; color: $text-muted; padding: 0 1; }"

    def __init__(self, board: Board, feed: Callable[[], Awaitable[None]], record: Path) -> None:
        super().__init__()
        self.title = "outrider uds live"
        self.board, self._feed, self._record = board, feed, record
        self.recording: CsvRecording | None = None
        self.error: Exception | None = None
        self._known: set[str] = set()

    def compose(self) -> ComposeResult:
        """Textual's."""
        yield Header()
        yield DataTable(zebra_stripes=True, cursor_type="row")
        yield Static("", id="state")
        yield Footer()

    def on_mount(self) -> None:
        """Textual's."""
        table = self.query_one(DataTable)
        for name in _COLUMNS:
            table.add_column(name, key=name)
        self.set_interval(REFRESH_S, self.show)
        self.run_worker(self._run_feed(), exit_on_error=False)

    async def _run_feed(self) -> None:
        try:
            await self._feed()
        except Exception as error:  # the command says it once the terminal is given back
            self.error = error
            self.exit()

    def show(self) -> None:
        """Bring the table up to date."""
        table = self.query_one(DataTable)
        for row in self.board.rows():
            key = f"{row.source}\0{row.name}"
            low, high = ("" if v is None else f"{v:.7g}" for v in (row.minimum, row.maximum))
            cells = [printable(c) for c in (row.source, row.name, row.text, row.unit, low, high, row.trend)]
            if key not in self._known:
                self._known.add(key)
                table.add_row(*cells, key=key)
                continue
            for column, cell in zip(_COLUMNS[2:], cells[2:], strict=True):
                table.update_cell(key, column, cell)
        if self.recording is not None and not self.board.paused:
            self.recording.write(self.board, time.time())
        words = ["PAUSED"] if self.board.paused else []
        if self.recording is not None:
            words.append(f"recording to {self._record}: {self.recording.lines} lines")
        self.query_one("#state", Static).update(", ".join(words))

    def action_pause(self) -> None:
        """Stand still, and go on."""
        self.board.paused = not self.board.paused

    def action_reset(self) -> None:
        """Extremes begin again."""
        self.board.reset()

    def action_record(self) -> None:
        """Begin or end recording."""
        if self.recording is None:
            self.recording = CsvRecording(self._record)
        else:
            self.recording.__exit__(None, None, None)
            self.recording = None

    def on_unmount(self) -> None:
        """Textual's."""
        if self.recording is not None:
            self.action_record()
