"""The MCP server, where `gradio[mcp]` is installed: named tools, described in plain words."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, serving

pytest.importorskip("mcp", reason="pip install 'gradio[mcp]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("mcp"), "--mcp", "--host", "0.0.0.0") as running:
        yield running


def talk(page: Server, say: Callable[[Any], Awaitable[Any]]) -> Any:
    """One conversation with the server, by the protocol's own client."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def conversation() -> Any:
        address = f"{page.url}/gradio_api/mcp/"
        async with (
            streamablehttp_client(address) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await say(session)

    return asyncio.run(conversation())


def test_every_endpoint_is_a_tool_that_says_what_it_does(page: Server) -> None:
    tools = {t.name: t for t in talk(page, lambda session: session.list_tools()).tools}
    assert tools.keys() == {"predict", "explain", "models", "train", "job", "stop", "evaluate"}
    assert tools["predict"].description.startswith("Say what is in a picture.")
    for tool in tools.values():
        for name, about in tool.inputSchema["properties"].items():
            assert about.get("description"), f"{tool.name}: {name}"


def test_a_tool_names_a_picture(page: Server, shapes: Path) -> None:
    data = base64.b64encode((shapes / "star.png").read_bytes()).decode()
    asked = {"image": f"data:image/png;base64,{data}", "model": "starter", "top_k": 2}
    answer = talk(page, lambda session: session.call_tool("predict", asked))
    assert not answer.isError, answer
    assert json.loads(answer.content[0].text.replace("'", '"').replace("None", "null"))["top"][0][
        "class"
    ] == "star"  # fmt: skip


def test_what_is_wrong_is_said_in_a_sentence(page: Server) -> None:
    answer = talk(page, lambda session: session.call_tool("job", {"job": "none"}))
    assert answer.isError
    assert "no such job" in answer.content[0].text
