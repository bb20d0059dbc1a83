"""The benchmark's arithmetic, its document, and that ours and the rival answer alike.

No test here says how fast anything is: that is for the benchmark itself.
"""

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vgg.bench import measuring, page, suite
from vgg.bench.measuring import BenchPlan, BenchReport, Machine, Row, in_turn, make_row, timed
from vgg.bench.suite import (
    Rival,
    compare_answers,
    example_pictures,
    hooked_map,
    our_model,
    run_bench,
)
from vgg.inference.predictor import Predictor

MACHINE = Machine(
    cpu="Test chip",
    cores=2,
    gpu=None,
    device="cpu",
    torch="2.8",
    precision="fp32",
    gflops={"fp32": 100.0},
)


class FakeClock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(scope="module")
def rival() -> Rival:
    """torchvision's VGG-11 with batch norm and random weights."""
    return suite.torchvision_rival("vgg11_bn", torch.device("cpu"))


def test_a_measure_gives_the_milliseconds_of_one_call() -> None:
    clock = FakeClock()
    measure = timed(lambda: clock.work(0.25), clock=clock)
    assert (measure(), measure()) == (250.0, 250.0)


def test_ours_and_the_rival_are_measured_in_turn_after_one_warm_up_each() -> None:
    clock, calls = FakeClock(), []

    def measured(name: str) -> float:
        calls.append(name)
        clock.work(1)
        return float(len(calls))

    ours, rival = in_turn(lambda: measured("A"), lambda: measured("B"), seconds=6, clock=clock)
    assert "".join(calls) == "ABABABAB"
    assert (ours, rival) == ([3, 5, 7], [4, 6, 8])  # calls 1 and 2 warm up and do not count


def test_the_number_of_pairs_fits_the_time_slice_within_its_bounds() -> None:
    clock = FakeClock()

    def pairs(seconds: float, **bounds: int) -> int:
        def one() -> float:
            clock.work(0.5)
            return 0.5

        return len(in_turn(one, one, seconds=seconds, clock=clock, **bounds)[0])

    assert pairs(5) == 5
    assert pairs(0.1) == 2  # one pair alone would be no median
    assert pairs(0.1, least=10) == 10
    assert pairs(1000, most=4) == 4


def test_a_ratio_is_that_of_the_medians() -> None:
    # The median of the three ratios would be 0.5, that of the means 67/8.
    row = make_row("x", "a", "b", ([1, 1, 199], [2, 20, 2]), notes=["a note"])
    assert (row.ours_value, row.rival_value, row.ratio) == (1, 2, 0.5)
    row = make_row("x", "a", "b", ([1, 9, 2], [4, 1, 1]), unit="s")
    assert (row.ours_value, row.rival_value, row.ratio) == (2, 1, 2)
    assert (row.unit, row.better, row.note) == ("s", "lower", "3 pairs")


def test_the_report_is_one_json_document() -> None:
    report = BenchReport(MACHINE, (_row("one", 0.5),), ("predict",), quick=True, seconds=12.3)
    document = json.loads(json.dumps(report.to_json()))
    assert document["rows"] == [
        {
            "name": "one",
            "ours": "ours",
            "rival": "theirs",
            "ours_value": 5.0,
            "rival_value": 10.0,
            "unit": "ms",
            "ratio": 0.5,
            "better": "lower",
            "note": "a note",
        }
    ]
    assert document["machine"]["gflops"] == {"fp32": 100.0}
    assert (document["cut_short"], document["quick"]) == (["predict"], True)
    assert document["seconds"] == 12.3


def test_the_table_shows_every_row_the_machine_and_what_was_cut_short() -> None:
    rows = (_row("one", 0.5), replace(_row("two", 2.0), better="higher"))
    table = BenchReport(MACHINE, rows, ("predict",), quick=True, seconds=59.6).table()
    first, _, one, two, *rest = table.splitlines()
    assert "Test chip, 2 cores" in first
    assert "100 GFLOP/s in fp32" in first
    assert one.split()[:6] == ["one", "5", "ms", "10", "ms", "0.50"]
    assert one.endswith("ours against theirs; a note")
    assert "2.00*" in two
    assert "The time was up at predict" in "".join(rest)
    assert rest[-1] == "60 s in all."


def test_unknown_rows_are_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ValueError, match="no 'speed'; choose from predict, overhead, start, first"):
        run_bench(rows=["speed"])


def test_a_run_hands_over_each_row_and_describes_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans = []

    def group(plan: BenchPlan) -> Iterator[Row]:
        plans.append(plan)
        yield from (_row("one", 0.5), _row("two", 2.0))

    monkeypatch.setitem(suite.GROUPS, "example", group)
    seen: list[Row] = []
    report = run_bench(rows=["example"], device="cpu", precision="fp32", on_row=seen.append)
    assert [row.name for row in report.rows] == ["one", "two"]
    assert tuple(seen) == report.rows
    assert (report.quick, report.cut_short) == (False, ())
    assert plans[0].machine == report.machine
    assert (report.machine.device, report.machine.precision) == ("cpu", "fp32")
    assert list(report.machine.gflops) == ["fp32"]
    assert min(report.machine.gflops.values()) > 0
    assert report.machine.cores >= 1
    assert report.machine.cpu


def test_a_quick_run_begins_no_row_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def group(plan: BenchPlan) -> Iterator[Row]:
        try:
            while True:
                yield _row("one", 1.0)
        finally:
            ended.append(plan)  # a page's process is stopped here

    monkeypatch.setitem(suite.GROUPS, "endless", group)
    monkeypatch.setattr(suite, "QUICK_SECONDS", 0)
    monkeypatch.setitem(suite.GROUPS, "later", group)
    report = run_bench(rows=["endless", "later"], quick=True, device="cpu", precision="fp32")
    assert len(report.rows) == 1
    assert report.cut_short == ("endless", "later")
    assert len(ended) == 1


def test_ours_and_torchvision_answer_alike_for_the_same_weights(rival: Rival) -> None:
    pictures = example_pictures(2)
    predictor = Predictor(our_model(rival, "fc"), "cpu", "fp32")
    mine, other = (
        predictor.probabilities(predictor.prepare(pictures)),
        rival.probabilities(pictures),
    )
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    assert other.max() > 0.01  # sharp enough for a fault to show: 1000 equal classes have 0.001
    best = [list(answer.indices) for answer in predictor.predict(pictures)]
    assert best == rival.predict(pictures)
    assert compare_answers(predictor, rival, pictures).startswith("same top-1 in 2 of 2, prob")


def test_a_network_that_answers_otherwise_is_told(rival: Rival) -> None:
    model = our_model(rival, "fc")
    turned = torch.nn.Linear(4096, 1000)
    turned.load_state_dict(model.classifier[-1].state_dict())
    turned.requires_grad_(False).weight.mul_(-1)
    model.classifier[-1] = turned
    answers = compare_answers(Predictor(model, "cpu", "fp32"), rival, example_pictures(2))
    assert answers.startswith("same top-1 in 0 of 2")


def test_a_hook_on_torchvisions_network_gives_the_map_that_ours_gives(rival: Rival) -> None:
    predictor = Predictor(our_model(rival, "fc"), "cpu", "fp32")
    for number, picture in enumerate(example_pictures(2)):
        mine = suite.explain(predictor, picture, 7 * number)
        other = hooked_map(rival, picture, 7 * number)
        assert mine.shape == other.shape == (224, 224)
        assert torch.corrcoef(torch.stack([mine.flatten(), other.flatten()]))[0, 1] > 0.99
    assert not any(layer._forward_hooks for layer in rival.model.modules())


def test_other_heads_read_the_same_trunk(rival: Rival) -> None:
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = rival.model.features[:-1](x).mean(dim=(2, 3))
        model = our_model(rival, "gap")
        torch.testing.assert_close(model.pool(x), expected, rtol=1e-4, atol=1e-5)
    assert model.classifier[-1].out_features == 1000


def test_pictures_have_a_photographs_size_and_differ() -> None:
    pictures = example_pictures(9)
    assert {picture.size for picture in pictures} == {(500, 375)}
    assert len({picture.tobytes() for picture in pictures}) == 9


def test_a_page_is_timed_until_it_answers_and_then_ended(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text(
        "import http.server, sys, time\n"
        "time.sleep(0.3)\n"
        "handler = http.server.SimpleHTTPRequestHandler\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), handler).serve_forever()\n"
    )
    with page.running([sys.executable, str(script)], tmp_path) as (port, seconds):
        assert seconds > 0.3
        assert page.answers(port)
    assert not page.answers(port)


def test_a_page_that_fails_says_why(tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("raise SystemExit('the port is taken')\n")
    command = [sys.executable, str(script)]
    with (
        pytest.raises(RuntimeError, match=r"page\.py gave no page: the port is taken"),
        page.running(command, tmp_path),
    ):
        pass


def test_both_pages_get_the_same_environment_without_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VGG_STUDIO_MODEL", "vgg19")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "80")
    found = page.environment(tmp_path)
    assert not {"VGG_STUDIO_MODEL", "GRADIO_SERVER_PORT"} & found.keys()
    assert found["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert found["TMPDIR"] == str(tmp_path)


def test_the_benchmark_itself_does_not_import_gradio() -> None:
    for module in (suite, measuring, page):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [name for name in names if name.split(".")[0] == "gradio"]


@pytest.mark.slow
def test_the_real_page_and_the_minimal_one_can_be_measured() -> None:
    report = run_bench(rows=["start", "overhead"], quick=True, device="cpu", precision="fp32")
    assert [row.name for row in report.rows][:1] == ["page start"]
    assert all(row.ours_value > 0 and row.rival_value > 0 for row in report.rows)


def _row(name: str, ratio: float) -> Row:
    return Row(name, "ours", "theirs", 10 * ratio, 10.0, "ms", ratio, "lower", "a note")
