"""Calls of many visitors: each has a share of the queue, and others come in between."""

import asyncio
from collections.abc import Callable, Coroutine

import fastapi
import gradio as gr
from gradio.data_classes import PredictBodyInternal

from vgg.ui.server.fair_queue import FairQueue, visitor_of
from vgg.ui.server.settings import Limits, Settings

SETTINGS = Settings(public=True, limits=Limits(waiting=10, waiting_each=3, calls=20))


class Desk:
    """A queue of calls to one event, of which `places` are served side by side."""

    def __init__(self, places: int = 1) -> None:
        with gr.Blocks() as page:
            gr.api(lambda: "", api_name="slow", concurrency_limit=places)
        self.queue = FairQueue(page, SETTINGS)
        self.queue.active_jobs = [None] * 8

    async def call(self, visitor: str | None, address: str = "far") -> str:
        """How joining the queue ends."""
        request = fastapi.Request({"type": "http", "client": (address, 1), "headers": []})
        body = PredictBodyInternal(fn_index=0, data=[], session_hash=visitor, request=request)
        return str((await self.queue.push(body, request, None))[2])

    def begin(self) -> str:
        """Whose call is begun; empty where none may be."""
        found = self.queue.get_events()
        if found is None:
            return ""
        (event,), _, name = found
        self.queue.active_jobs[self.queue.active_jobs.index(None)] = [event]
        self.queue.event_queue_per_concurrency_id[name].current_concurrency += 1
        return visitor_of(event)

    def end(self, visitor: str) -> None:
        """One of the visitor's calls is answered."""
        jobs = self.queue.active_jobs
        place = next(n for n, job in enumerate(jobs) if job and visitor_of(job[0]) == visitor)
        (served,) = jobs[place] or []
        jobs[place] = None
        self.queue.event_queue_per_concurrency_id[served.concurrency_id].current_concurrency -= 1

    def serve(self) -> str:
        visitor = self.begin()
        self.end(visitor)
        return visitor


def within_a_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Gradio leaves loops open that it makes where none runs."""

    def run() -> None:
        asyncio.run(test())

    return run


@within_a_loop
async def test_a_visitor_has_a_share_and_others_come_in_between() -> None:
    desk = Desk()
    assert [await desk.call("ada") for _ in range(4)] == [*["success"] * 3, "queue_full"]
    assert [await desk.call("bob", "near") for _ in range(2)] == ["success"] * 2
    assert await desk.call("eve", "near") == "success"
    assert [desk.serve() for _ in range(6)] == ["ada", "bob", "eve", "ada", "bob", "ada"]
    assert desk.begin() == ""


@within_a_loop
async def test_one_place_stays_free_of_who_has_all_others() -> None:
    desk = Desk(places=3)
    for _ in range(3):
        await desk.call("ada")
    assert [desk.begin() for _ in range(3)] == ["ada", "ada", ""]
    await desk.call("bob")
    assert desk.begin() == "bob"
    desk.end("ada")
    assert desk.begin() == "ada"


@within_a_loop
async def test_one_address_fills_half_of_the_queue_whatever_it_calls_itself() -> None:
    desk = Desk()
    told = [await desk.call(f"session {number}") for number in range(6)]
    assert told == [*["success"] * 5, "queue_full"]
    assert await desk.call("bob", "elsewhere") == "success"


@within_a_loop
async def test_calls_without_a_session_are_those_of_their_address() -> None:
    desk = Desk()
    assert [await desk.call(None) for _ in range(4)] == [*["success"] * 3, "queue_full"]
    assert await desk.call("ada") == "success"
    assert [desk.serve() for _ in range(2)] == ["far", "ada"]


@within_a_loop
async def test_a_visitor_has_so_many_calls_a_minute() -> None:
    desk = Desk()
    for _ in range(20):
        assert await desk.call("ada") == "success"
        desk.serve()
    assert await desk.call("ada") == "queue_full"
    assert await desk.call("bob", "near") == "success"
