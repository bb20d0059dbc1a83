"""What the command line shows of long work: a bar on a terminal, and nothing elsewhere."""

import io
from itertools import count

import pytest
from tqdm import std

from vgg.terminal import progress_line, told_events


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal as standard error, and a clock that goes a second with each look."""
    monkeypatch.setattr("sys.stderr", found := Terminal())
    monkeypatch.setattr(std, "time", count(1.0).__next__)
    return found


def test_a_terminal_shows_a_bar_that_ends_where_the_work_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_a_terminal(monkeypatch)
    with progress_line("pictures measured") as tell:
        assert terminal.getvalue() == "", "nothing is told yet"
        for done in (3, 7, 10):
            tell(done, 10)
    lines = terminal.getvalue().rstrip("\n").split("\r")
    assert "pictures measured:  30%" in lines[1]
    assert "10/10" in lines[-1]
    assert terminal.getvalue().endswith("\n")


def test_elsewhere_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_line("pictures measured") as tell:
        tell(3, 10)
    assert capsys.readouterr() == ("", "")


def test_a_training_tells_its_events_in_lines_between_the_bars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_a_terminal(monkeypatch)
    with told_events() as tell:
        tell({"kind": "decode", "done": 5, "total": 10})
        tell({"kind": "plan", "message": "a new last layer learns"})
        tell({"kind": "features", "done": 1, "total": 10})
    shown = terminal.getvalue()
    assert "pictures decoded:  50%" in shown
    assert "\nplan: a new last layer learns\n" in shown
    assert "pictures seen by the trunk:  10%" in shown
