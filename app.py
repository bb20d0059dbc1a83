"""Start the page: `python app.py`. A Hugging Face Space runs this file."""

import argparse
import ipaddress
import os
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import fields, replace
from types import FrameType

from vgg.checkpoints.loading import STARTER
from vgg.cli import Parser, add_run_options, wait_politely
from vgg.data.temporary import remove_all, remove_leftovers, temporary_folder
from vgg.errors import UserError
from vgg.network.config import AUTO
from vgg.terminal import UsageError, one_line
from vgg.ui.server.settings import Limits, Settings

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported

END_SECONDS = 4.0  # after which work that still goes on is broken off
ON_ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
if ON_ZERO_GPU:  # a Space that lends a GPU for each answer; its package comes before torch
    try:
        import spaces  # noqa: F401
    except ImportError:
        ON_ZERO_GPU = False


def build_parser() -> Parser:
    parser = Parser(prog="python app.py", description="VGG Studio's page.")
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="make a public Gradio link")
    parser.add_argument(
        "--auth", metavar="USER:PASSWORD", help="ask for a name and a password; wise with --share"
    )
    parser.add_argument(
        "--model", default=STARTER, help=f"chosen at the start (default: {STARTER})"
    )
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints as MCP tools too")
    limits = parser.add_argument_group("limits", "what visitors of a public page may take")
    for limit in fields(Limits):
        option, most = f"--most-{limit.name.replace('_', '-')}", limit.default
        about = f"{limit.metadata['about']} (default: {most})"
        limits.add_argument(option, type=int, metavar="N", default=most, help=about)
    add_run_options(parser)
    return parser


def is_space() -> bool:
    return os.environ.get("SYSTEM") == "spaces" or "SPACE_ID" in os.environ


def is_public(host: str | None, share: bool) -> bool:
    """True where others than the person at this machine can reach the page."""
    shared = share or os.environ.get("GRADIO_SHARE", "").lower() in ("1", "true")
    host = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    try:
        local = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        local = host == "localhost"
    return is_space() or shared or not local


def split_auth(auth: str | None) -> tuple[str, str] | None:
    """`USER:PASSWORD` as a pair."""
    if auth is None:
        return None
    user, colon, password = auth.partition(":")
    if not (user and colon and password):
        raise UsageError("cli.auth")
    return user, password


def limits_of(options: argparse.Namespace) -> Limits:
    """The limits that were asked for; a `UsageError` for one that lets nothing through."""
    given = {limit.name: getattr(options, f"most_{limit.name}") for limit in fields(Limits)}
    if wrong := [name for name, most in given.items() if most < (name != "loaded_mb")]:
        raise UsageError("cli.limit", option=f"--most-{wrong[0].replace('_', '-')}")
    return Limits(**given)


class Door:
    """Lets in who knows the name and the password; after `most` wrong tries within a minute nobody,
    until it is over: who guesses gets no further."""

    def __init__(self, user: str, password: str, most: int) -> None:
        self._right = user.encode(), password.encode()
        self._wrong: deque[float] = deque(maxlen=most)

    def opens(self, user: str, password: str) -> bool:
        full = len(self._wrong) == self._wrong.maxlen
        if full and time.monotonic() - self._wrong[0] < 60:
            return False
        given = user.encode(), password.encode()
        if all(map(secrets.compare_digest, given, self._right)):
            return True
        self._wrong.append(time.monotonic())
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    wait_politely()
    end_politely()
    remove_leftovers()
    if "GRADIO_TEMP_DIR" not in os.environ:  # uploads go with this process
        os.environ["GRADIO_TEMP_DIR"] = str(temporary_folder("uploads"))
    try:
        options = build_parser().parse_args(arguments)
        auth = split_auth(options.auth)
        public = is_public(options.host, options.share)
        if options.mcp:
            check_mcp()
        if options.device not in (AUTO, "cpu"):
            from vgg.device import choose_device  # imports torch, so only where it is asked for

            choose_device(options.device)
        from vgg.ui.app import build, launch_options

        settings = Settings(
            model=options.model,
            device=options.device,
            precision=options.precision,
            weights_dir=options.weights_dir,
            public=public,
            borrowed_gpu=ON_ZERO_GPU,
            limits=limits_of(options),
        )
        if ON_ZERO_GPU:
            import vgg.ui.server.zerogpu  # noqa: F401  its functions must be known before the launch
        try:
            page = build(settings)
        except UserError as error:
            if not is_space():
                raise
            # A Space that does not start helps nobody; the log says what is wrong.
            print(
                f"{settings.model} can't be had: {one_line(error)}. The starter stands in for it."
            )
            page = build(replace(settings, model=STARTER))
        if options.share and auth is None:
            print("The link is open to anyone who has it; --auth USER:PASSWORD closes it.")
        _, address, link = page.launch(
            prevent_thread_lock=True,
            server_name=options.host,
            server_port=options.port,
            share=options.share or None,
            auth=auth and Door(*auth, settings.limits.logins).opens,
            mcp_server=options.mcp,
            **launch_options(settings),
        )
        if options.share and link is None and not is_space():
            print(
                "No link could be made, most likely because Gradio's servers can't be reached from "
                f"here; the page itself goes on at {address}",
                flush=True,
            )
        page.block_thread()
    except KeyboardInterrupt:  # before the page stood
        return 0
    except (UserError, OSError) as error:
        print(f"vgg: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def end_politely() -> None:
    """SIGTERM ends the page as Ctrl-C does. What still works after some seconds is not waited for:
    a training can be gone on with."""

    def end(number: int, frame: FrameType | None) -> None:
        watchdog = threading.Timer(END_SECONDS, _end_now)
        watchdog.daemon = True
        watchdog.start()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, end)


def _end_now() -> None:
    remove_all()
    os._exit(0)


def check_mcp() -> None:
    try:
        import mcp  # noqa: F401
    except ImportError:
        raise UsageError("cli.mcp") from None


if __name__ == "__main__":
    sys.exit(main())
