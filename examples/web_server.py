"""One model behind a web server, in one event loop: tales as server-sent events, embeddings.

python examples/web_server.py [MODEL] [PORT]

curl -N "localhost:8000/tell?prompt=Once+upon+a+time"
curl "localhost:8000/embed?text=The+fox+and+the+crow"
"""

import asyncio
import contextlib
import json
import sys
from asyncio import StreamReader, StreamWriter
from urllib.parse import parse_qsl, urlsplit

from llama_rt import Llama, LlamaRtError

Query = dict[str, str]


def start(writer: StreamWriter, status: str, kind: str) -> None:
    """Sends the head of an answer; its end is the end of the connection."""
    writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode())


async def tell(llm: Llama, query: Query, reader: StreamReader, writer: StreamWriter) -> str:
    """Sends text as it is generated; stops generating when the client is gone."""
    seed, most = (int(query[name]) if name in query else None for name in ("seed", "max_tokens"))
    async with llm.astream(query["prompt"], seed=seed, max_tokens=most) as stream:
        start(writer, "200 OK", "text/event-stream")
        async for chunk in stream:
            writer.write(f"data: {json.dumps(chunk.text)}\n\n".encode())
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            if reader.at_eof() or writer.is_closing():
                return "the client left"
    writer.write(b"data: [DONE]\n\n")
    return "told"


async def embed(llm: Llama, query: Query, writer: StreamWriter) -> str:
    """Sends the unit vector of a text; a thread waits for it, the loop does not."""
    vector = await asyncio.to_thread(llm.embed, query["text"])
    start(writer, "200 OK", "application/json")
    writer.write(json.dumps(vector.tolist()).encode())
    return "embedded"


async def answer(llm: Llama, reader: StreamReader, writer: StreamWriter) -> None:
    """One request, `GET /path?query`."""
    with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
        request = await reader.readuntil(b"\r\n\r\n")
        target = urlsplit(request.split()[1].decode())
        query = dict(parse_qsl(target.query))
        try:
            if target.path == "/tell":
                outcome = await tell(llm, query, reader, writer)
            elif target.path == "/embed":
                outcome = await embed(llm, query, writer)
            else:
                start(writer, "404 Not Found", "text/plain")
                outcome = "there are /tell?prompt= and /embed?text="
                writer.write(outcome.encode())
        except (KeyError, ValueError, LlamaRtError) as error:
            start(writer, "400 Bad Request", "text/plain")
            outcome = f"{type(error).__name__}: {error}"
            writer.write(outcome.encode())
        print(f"{target.path}: {outcome}", flush=True)


async def main(model: str = "", port: str = "8000") -> None:
    """Serves until interrupted."""
    with Llama.load(model or None) as llm:
        server = await asyncio.start_server(lambda r, w: answer(llm, r, w), "localhost", int(port))
        async with server:
            print(f"http://localhost:{server.sockets[0].getsockname()[1]}", flush=True)
            await server.serve_forever()


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(*sys.argv[1:]))
