"""Without a terminal, a command writes a line every 20 s of what it is doing; nothing here waits for them."""

import io
import os
import threading
from collections.abc import Iterator

import click
import pytest
from rich.console import Console

from pipelines import heartbeat
from pipelines.cli.main import SERVERS, main
from pipelines.driver import Screen
from tests.invoke import invoke


class Clock(threading.Event):
    """An event for which each wait is over at once; set after so many, with what the thread waited for."""

    def __init__(self, beats: int) -> None:
        super().__init__()
        self.waited: list[float] = []
        self._beats = beats

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        return len(self.waited) > self._beats


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def test_a_line_every_twenty_seconds_has_the_step_and_the_work_inside_it(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    screen, clock = Screen(Console(file=io.StringIO())), Clock(2)
    screen.step(3, 11, "SFT future_l1")
    screen(120, 750, "SFT \x1b[31m")
    heartbeat._beat("future-l1 demo", writing, clock)
    lines = os.read(reading, 4096).decode().splitlines()
    assert clock.waited == [20, 20, 20]
    assert lines == [
        f"future-l1 demo, 0:00:{seconds}: step 4 of 11, SFT future_l1: SFT  [31m, 120 of 750" for seconds in (20, 40)
    ]


def test_lines_that_nobody_reads_end_and_the_command_goes_on() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    clock = Clock(5)
    heartbeat._beat("future-l1 demo", writing, clock)
    assert len(clock.waited) == 1
    os.close(writing)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_but_servers_has_the_lines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the command does, as long as it is a command of the group."""
    beating: list[str] = []

    def callback(**options: object) -> None:
        beating.extend(thread.name for thread in threading.enumerate())

    monkeypatch.setitem(main.commands, name, click.Command(name, callback=callback))
    assert invoke(name).exit_code == 0
    assert ("heartbeat" in beating) is (name not in SERVERS)
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]
    beating.clear()
    monkeypatch.setattr("pipelines.cli.main.CONSOLE", Console(force_terminal=True))
    assert invoke(name).exit_code == 0 and beating and "heartbeat" not in beating, "a terminal has progress bars"
