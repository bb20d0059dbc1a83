#!/usr/bin/env python3
"""A crowd on a public page: 50 visitors ask 20 times each, 5 train, 5 leave in the middle.

    .ci/crowd.py [--visitors 50] [--calls 20]

Prints what a lone visitor waits, what the crowd waits, and what the page's memory does. Status 1
where an answer is wrong, a call fails, or a bound of the project is not kept.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SLOWEST = 60  # 95th percentile over the lone median
MOST_ABOVE, LEFT_ABOVE = 300, 100  # MB above before, at the peak and a minute after


def resident(pid: int) -> float:
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    from gradio_client import Client, handle_file

    from vgg.data.shapes import SHAPES, draw_folder

    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        draw_folder(home / "shapes", count=8, size=64)
        archive = shutil.make_archive(str(home / "shapes"), "zip", home / "shapes")
        pictures = [next((home / "shapes" / name).iterdir()) for name in SHAPES]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        page = subprocess.Popen(
            [sys.executable, "app.py", "--host", "0.0.0.0", "--port", str(port),
             "--weights-dir", home / "weights"],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert page.stdout
        while "Running on" not in page.stdout.readline():
            assert page.poll() is None
        url = f"http://127.0.0.1:{port}"
        lone = Client(url, verbose=False)

        def ask(client: Client, picture: Path) -> list[object]:
            return client.predict(handle_file(picture), api_name="/predict")["top"]

        expected = {picture: ask(lone, picture) for picture in pictures}
        times = []
        for number in range(40):
            began = time.perf_counter()
            ask(lone, pictures[number % len(pictures)])
            times.append(time.perf_counter() - began)
        median = statistics.median(times)
        before = peak = resident(page.pid)
        waits: list[float] = []
        problems: list[str] = []

        def visit(number: int) -> None:
            chance = random.Random(number)
            try:
                client = Client(url, verbose=False)
                if number < 5:
                    client.predict(
                        handle_file(archive), mode="scratch", budget=20, api_name="/train"
                    )
                for call in range(options.calls):
                    if 5 <= number < 10 and call == options.calls // 2:
                        client.submit(handle_file(pictures[0]), api_name="/predict")
                        return  # with a call under way
                    picture = chance.choice(pictures)
                    began = time.perf_counter()
                    answer = ask(client, picture)
                    waits.append(time.perf_counter() - began)
                    if answer != expected[picture]:
                        problems.append(f"visitor {number}: another answer for {picture.parent}")
            except Exception as error:
                problems.append(f"visitor {number}: {type(error).__name__}: {error}")

        threads = [threading.Thread(target=visit, args=(n,)) for n in range(options.visitors)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, resident(page.pid))
            time.sleep(0.2)
        time.sleep(60)
        after = resident(page.pid)
        slow = statistics.quantiles(waits, n=20)[-1] if len(waits) > 1 else float("inf")
        page.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            page.wait(20)
        page.kill()
        page.stdout.close()
    print(f"alone: median {1000 * median:.0f} ms; crowd: {len(waits)} answers, 95th percentile "
          f"{1000 * slow:.0f} ms, {slow / median:.1f} times (at most {SLOWEST})")  # fmt: skip
    print(f"memory: {before:.0f} MB before, {peak - before:+.0f} MB at most (bound {MOST_ABOVE}), "
          f"{after - before:+.0f} MB a minute after (bound {LEFT_ABOVE})")  # fmt: skip
    print(f"problems: {len(problems)}", *problems[:10], sep="\n  ")
    kept = slow <= SLOWEST * median and peak - before <= MOST_ABOVE
    return 0 if kept and after - before <= LEFT_ABOVE and not problems else 1


if __name__ == "__main__":
    sys.exit(main())
