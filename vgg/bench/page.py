"""The page's rows of the benchmark: each page is a process of its own, as a person starts it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from PIL import Image

from vgg.bench.measuring import BenchPlan, Row, in_turn, make_row, timed
from vgg.checkpoints.loading import PROJECT, STARTER, load_model, project_file
from vgg.data.shapes import draw_shape
from vgg.inference.predictor import Predictor

PHOTOGRAPH = (4000, 3000)  # pixels
START_SECONDS = 180  # a page that has not answered by then has failed
_LAUNCH = """
page.launch(server_port=int(sys.argv[1]), ssr_mode=False, run_history=False, quiet=True)
"""
TWO_BOXES = f"""
import sys
import gradio as gr

with gr.Blocks(analytics_enabled=False) as page:
    text, echo = gr.Textbox(), gr.Textbox()
    text.submit(lambda words: words, text, echo)
{_LAUNCH}"""
CONSTANT_ANSWER = f"""
import sys
import gradio as gr

def predict(image: gr.FileData) -> dict:
    return {{"image": "picture.png", "top": [{{"class": "star", "probability": 1.0}}]}}

with gr.Blocks(analytics_enabled=False) as page:
    gr.api(predict, api_name="predict")
{_LAUNCH}"""


def start_rows(plan: BenchPlan) -> Generator[Row]:
    """From the start of the process to the page's first answer."""
    with tempfile.TemporaryDirectory() as folder:
        ours, rival = our_command(plan), _script(Path(folder), TWO_BOXES)

        def start(command: list[str]) -> float:
            with running(command, Path(folder)) as (_, seconds):
                return seconds

        values = in_turn(
            lambda: start(ours),
            lambda: start(rival),
            seconds=3 * plan.row_seconds,
            least=2 if plan.quick else 5,
            most=15,
        )
    yield make_row("page start", "app.py", "Gradio with two text boxes", values, unit="s")


def first_prediction_rows(plan: BenchPlan) -> Generator[Row]:
    """From the start of the process to the first answer about a picture. Full runs only."""
    if plan.quick:
        return
    with tempfile.TemporaryDirectory() as folder:
        ours, rival = our_command(plan), _script(Path(folder), CONSTANT_ANSWER)
        picture = _small_picture(Path(folder))

        def first(command: list[str]) -> float:
            started = time.perf_counter()
            with running(command, Path(folder)) as (port, _):
                ask(connect(port), picture)
                return time.perf_counter() - started

        values = in_turn(
            lambda: first(ours), lambda: first(rival), seconds=3 * plan.row_seconds, most=10
        )
    yield make_row(
        "first prediction after the start",
        "app.py, starter",
        "Gradio with a constant answer",
        values,
        unit="s",
    )


def overhead_rows(plan: BenchPlan) -> Generator[Row]:
    """What `/predict` takes for a small picture beyond the model's own time, and for a large
    photograph beside a small picture."""
    predictor = Predictor(load_model(STARTER), str(plan.device), plan.machine.precision)
    with tempfile.TemporaryDirectory() as folder:
        picture = _small_picture(Path(folder))
        pixels = predictor.prepare([picture])
        model = timed(lambda: predictor.probabilities(pixels))
        model_times: list[float] = []
        rival_command = _script(Path(folder), CONSTANT_ANSWER)
        with (
            running(our_command(plan), Path(folder)) as (our_port, _),
            running(rival_command, Path(folder)) as (rival_port, _),
        ):
            ours, rival = connect(our_port), connect(rival_port)
            our_call = timed(lambda: ask(ours, picture))

            def beyond_the_model() -> float:
                model_times.append(model())
                return our_call() - model_times[-1]

            values = in_turn(
                beyond_the_model,
                timed(lambda: ask(rival, picture)),
                seconds=2 * plan.row_seconds,
                least=10,
            )
            yield make_row(
                "page overhead of /predict",
                "app.py, starter",
                "Gradio with a constant answer",
                values,
                notes=[f"the model's {median(model_times):.1f} ms taken off"],
            )
            if plan.quick:
                return
            photograph = _photograph(Path(folder))
            megabytes = photograph.stat().st_size / 1e6
            values, uploads = (
                in_turn(
                    timed(partial(ask, page, photograph)),
                    timed(partial(ask, page, picture)),
                    seconds=2 * plan.row_seconds,
                )
                for page in (ours, rival)
            )
    more, upload = (median(large) - median(small) for large, small in (values, uploads))
    size = " x ".join(map(str, PHOTOGRAPH))
    yield make_row(
        f"/predict of a JPEG of {size}",
        "app.py, starter",
        "app.py, starter, a small picture",
        values,
        notes=[f"{more:.0f} ms more for {megabytes:.1f} MB, {upload:.0f} of them the upload alone"],
    )


def our_command(plan: BenchPlan) -> list[str]:
    """The page as a person starts it, up to the port."""
    places = ["--device", plan.machine.device, "--precision", plan.machine.precision]
    return [sys.executable, str(project_file("app.py")), *places, "--port"]


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[tuple[int, float]]:
    """A page as a child process: gives (port, seconds from its start to its first answer).

    `command` ends where the port belongs; the page's temporary files go to `folder`.
    """
    port = _free_port()
    log = folder / f"{port}.log"
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, str(port)],
            env=environment(folder),
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while not answers(port):
            if process.poll() is not None or time.perf_counter() - started > START_SECONDS:
                lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
                said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
                raise RuntimeError(f"{Path(command[1]).name} gave no page: {said.strip()}")
            time.sleep(0.01)
        yield port, time.perf_counter() - started
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def connect(port: int) -> Any:
    """A `gradio_client` for the page at this port of this machine."""
    # Its own switch does not turn its statistics off where this variable is missing.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from gradio_client import Client

    return Client(
        f"http://127.0.0.1:{port}",
        verbose=False,
        analytics_enabled=False,
        httpx_kwargs={"trust_env": False},  # no proxy on the way to this machine
    )


def ask(client: Any, picture: Path) -> None:
    """One call of `/predict`; an answer without a class is our bug."""
    from gradio_client import handle_file

    answer = client.predict(handle_file(picture), api_name="/predict")
    if not answer["top"]:
        raise RuntimeError(f"/predict gave no class: {answer}")


def answers(port: int) -> bool:
    """True where GET / gives a page."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)) as connection:
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.status == 200 and bool(answer.read())
        except (OSError, HTTPException):
            return False


def environment(folder: Path) -> dict[str, str]:
    """The same for both pages: none of the user's settings, no statistics, no network."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VGG_STUDIO_", "GRADIO_"))
    }
    local = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP", "GRADIO_TEMP_DIR"), str(folder))
    cache = {"VGG_STUDIO_CACHE": str(folder / "cache")}
    return kept | local | quiet | temporary | cache


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _script(folder: Path, text: str) -> list[str]:
    """The start of a command that runs `text`; the port is still to come."""
    file = folder / "minimal_page.py"
    file.write_text(text, encoding="utf-8")
    return [sys.executable, str(file)]


def _photograph(folder: Path) -> Path:
    """A JPEG file as a telephone's camera makes it: 12 megapixels, about 4 MB."""
    file = folder / "photograph.jpg"
    rough = Image.effect_noise((PHOTOGRAPH[0] // 6, PHOTOGRAPH[1] // 6), 60)
    rough.resize(PHOTOGRAPH, Image.Resampling.BICUBIC).convert("RGB").save(file, quality=95)
    return file


def _small_picture(folder: Path) -> Path:
    file = folder / "picture.png"
    draw_shape("star", Random(0)).save(file)
    return file
