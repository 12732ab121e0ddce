"""Several generations in one event loop, which stays free: a clock ticks meanwhile.

python examples/asyncio_tasks.py [MODEL]
"""

import asyncio
import sys

from llama_rt import Llama


async def tell(llm: Llama, prompt: str) -> None:
    """Streams one continuation; leaving the loop early would cancel it."""
    text = prompt
    async for chunk in llm.astream(prompt, max_tokens=32, seed=3):
        text += chunk.text
    print(repr(text))


async def tick() -> None:
    """Counts while the model works."""
    count = 0
    try:
        while True:
            await asyncio.sleep(0.01)
            count += 1
    finally:
        print(f"the loop ran {count} times meanwhile")


async def main() -> None:
    """Two streams and one plain call share each step of the model."""
    with Llama.load(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
        clock = asyncio.create_task(tick())
        await asyncio.gather(
            tell(llm, "The fox"),
            tell(llm, "The hare"),
            llm.agenerate("The bear", max_tokens=32),
        )
        clock.cancel()
        await asyncio.gather(clock, return_exceptions=True)


asyncio.run(main())
