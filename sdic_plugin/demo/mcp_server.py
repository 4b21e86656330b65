"""The page's tools in the Model Context Protocol, over HTTP, in the same line as the page's own visitors.

Gradio would serve every endpoint of a page as a tool: through one client of its own, whose session all callers share,
fetching whatever address they name. So what Gradio has for it is taken but for the calls: the transports (streamable
HTTP and, for older clients, server-sent events), their places under the page's address, and the description there.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
import secrets
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from gradio.mcp import GradioMCPServer
from starlette.requests import Request
from starlette.responses import JSONResponse

from sdic_plugin.demo import texts
from sdic_plugin.demo.page import Page
from sdic_plugin.demo.tools import FindFile, Tools, encoded
from sdic_plugin.demo.turns import TooMany
from sdic_plugin.demo.visits import Visitor, upload_session, visitor_of
from sdic_plugin.errors import SDICError
from sdic_plugin.version import __version__

if TYPE_CHECKING:
    from mcp import types
    from mcp.server import Server

logger = logging.getLogger(__name__)

INSTRUCTIONS = (
    "Edits photos of {subject} with SDIC, a GAN inversion that keeps the photo's detail. Call list_edits first, then "
    "edit_photo. The edits show what a model has learnt from its training pictures, not facts about who is in a "
    "photo; do not use them to deceive anybody, and say that a picture was edited."
)


def check_mcp() -> None:
    """Raise SDICError where the package that speaks the protocol is absent, or not one that Gradio knows."""
    if importlib.util.find_spec("mcp") is None or not hasattr(GradioMCPServer, "Server"):
        raise SDICError(
            'The tools need the package "mcp" in a version that Gradio takes: pip install "sdic-plugin[mcp]".'
        )


def add_tools(page: Page, tools: Tools) -> None:
    """Let `sdic_plugin.demo.serve` serve tools along with a page.

    Raises:
        SDICError: If the package `mcp` is absent.
    """
    check_mcp()
    page.mcp_server_obj = ToolServer(page, tools)
    page.mcp_server = True  # so that "Use via API" shows how to connect


class ToolServer(GradioMCPServer):
    """Answers calls of the tools; each is a visit of its own, of which nothing is kept."""

    def __init__(self, page: Page, tools: Tools) -> None:
        """Serve `tools` beside `page`, within its limits."""
        self.page = page
        self.tools = tools
        super().__init__(page)

    def get_tool_to_endpoint(self) -> dict[str, str]:
        """None of the page's endpoints is a tool."""
        return {}

    def create_mcp_server(self) -> Server[Any, Any]:
        """Say which tools there are and who answers."""
        from mcp import types

        name = f"SDIC: {self.tools.engine.name}"
        instructions = INSTRUCTIONS.format(subject=self.tools.subject)
        server: Server[Any, Any] = self.Server(name, version=__version__, instructions=instructions)
        hints = types.ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False)
        listed = types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    title=tool.title,
                    description=tool.description,
                    inputSchema=tool.schema,
                    annotations=hints,
                )
                for tool in self.tools.by_name.values()
            ]
        )

        async def list_tools(message: types.ListToolsRequest) -> types.ServerResult:
            return types.ServerResult(listed)

        async def call_tool(message: types.CallToolRequest) -> types.ServerResult:
            return types.ServerResult(await self.call(message.params.name, message.params.arguments or {}))

        # Not by the library's decorators: they log and repeat what was sent, however long.
        server.request_handlers |= {types.ListToolsRequest: list_tools, types.CallToolRequest: call_tool}
        return server

    async def call(self, name: str, arguments: dict[str, Any]) -> types.CallToolResult:
        """Answer a call when it is its turn, or say in one sentence why not."""
        request = self.mcp_server.request_context.request
        if request is None:  # our own invariant: both transports are HTTP
            raise RuntimeError("The call came by no request.")
        visitor, turn = self._visitor(request), secrets.token_hex(16)
        try:
            await self.page.sdic_turns.wait(visitor.address, turn)
        except TooMany:
            return _refusal(texts.BUSY)
        try:
            return await anyio.to_thread.run_sync(self._answer, name, arguments, self._finder(visitor))
        except SDICError as error:
            return _refusal(self.page.told(str(error)))
        except Exception:
            logger.exception("The tool %.60r failed.", name)
            return _refusal(texts.FAILED)
        finally:
            self.page.sdic_turns.end(turn)

    def _answer(self, name: str, arguments: dict[str, Any], find_file: FindFile) -> types.CallToolResult:
        from mcp import types

        answer = self.tools.call(name, arguments, find_file)
        text = types.TextContent(type="text", text=json.dumps(answer.facts, ensure_ascii=False))
        content: list[types.ContentBlock] = [text]
        if answer.picture is not None:
            data = base64.b64encode(encoded(answer.picture, answer.format)).decode("ascii")
            content.append(types.ImageContent(type="image", data=data, mimeType=f"image/{answer.format}"))
        return types.CallToolResult(content=content, structuredContent=answer.facts)

    def _visitor(self, request: Request) -> Visitor:
        address = request.client.host if request.client else "unknown"
        return visitor_of(request.scope["headers"], address, self.page.limits.proxies)

    def _finder(self, visitor: Visitor) -> FindFile:
        """Find the files that this visitor sent, and no others."""

        def find_file(path: str) -> str:
            session = upload_session(visitor)
            if self.page.sdic_files.visit_of(path) != session:
                raise SDICError(texts.NOT_SENT)
            self.page.sdic_visits.open(session, visitor)
            return path

        return find_file

    async def get_complete_schema(self, request: Request) -> JSONResponse:
        """Describe the tools for who reads without the protocol: the page itself, and the Hub."""
        return JSONResponse([
            {
                "name": tool.name, "description": tool.description, "inputSchema": tool.schema,
                "meta": {"file_data_present": True, "mcp_type": "tool", "endpoint_name": tool.name},
            }
            for tool in self.tools.by_name.values()
        ])  # fmt: skip


def _refusal(sentence: str) -> types.CallToolResult:
    from mcp import types

    return types.CallToolResult(content=[types.TextContent(type="text", text=sentence)], isError=True)
