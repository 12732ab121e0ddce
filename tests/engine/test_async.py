"""asyncio: the loop stays free, tasks are batched, a cancelled task cancels its work."""

import asyncio
import time

import pytest

from llama_rt import CapacityError

TEXT = "The llama drank"


def test_the_same_results(llm):
    async def run():
        one, many = await asyncio.gather(
            llm.agenerate(TEXT, seed=1, max_tokens=30),
            llm.agenerate([TEXT, "water"], seed=1, max_tokens=30),
        )
        chunks = [chunk async for chunk in llm.astream(TEXT, seed=1, max_tokens=30)]
        return one, many, chunks

    one, many, chunks = asyncio.run(run())
    whole = llm.generate(TEXT, seed=1, max_tokens=30)
    assert one.tokens == whole.tokens == many[0].tokens
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].finish_reason == whole.finish_reason


def test_two_tasks_share_a_stream(llm):
    async def run():
        stream = llm.astream(TEXT, seed=1, max_tokens=80)

        async def take():
            return [token async for chunk in stream for token in chunk.tokens]

        return await asyncio.wait_for(asyncio.gather(take(), take()), 20)

    one, other = asyncio.run(run())
    assert sorted(one + other) == sorted(llm.generate(TEXT, seed=1, max_tokens=80).tokens)


def test_the_loop_is_not_blocked(slow, long_prompt):
    async def run():
        longest, last = 0.0, time.perf_counter()
        task = asyncio.create_task(slow.agenerate(long_prompt, max_tokens=5))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            longest, last, ticks = max(longest, now - last), now, ticks + 1
        return longest, ticks

    start = time.perf_counter()
    longest, ticks = asyncio.run(run())
    took = time.perf_counter() - start
    assert ticks > 5
    assert longest < max(0.2, took / 2)


def test_a_cancelled_task_cancels_its_work(slow, long_prompt):
    async def run():
        start = time.perf_counter()
        await slow.agenerate([5, *long_prompt], max_tokens=1)
        needed = time.perf_counter() - start
        task = asyncio.create_task(slow.agenerate([6, *long_prompt]))
        await asyncio.sleep(min(0.05, needed / 10))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        start = time.perf_counter()
        await slow.agenerate("a", max_tokens=1)
        return needed, time.perf_counter() - start

    needed, after = asyncio.run(run())
    assert after < needed / 2


def test_an_abandoned_stream_ends(slow):
    async def run():
        stream = slow.astream(TEXT)
        async for _ in stream:
            break
        await stream.aclose()
        assert [chunk async for chunk in stream] == []
        async with slow.astream(TEXT) as other:
            await anext(other)
        unused = slow.astream(TEXT)
        del unused

    asyncio.run(run())
    assert slow.generate("a", max_tokens=2).usage.completion_tokens <= 2


def test_a_stream_made_outside_the_loop_runs_in_it(llm):
    stream = llm.astream(TEXT, seed=1, max_tokens=10)

    async def run():
        chunks = [chunk async for chunk in stream]
        return "".join(chunk.text for chunk in chunks)

    text = asyncio.run(run())
    assert text == llm.generate(TEXT, seed=1, max_tokens=10).text
    assert stream.completion.text == text


def test_errors_are_raised_in_the_task(llm):
    async def run():
        with pytest.raises(CapacityError):
            await llm.agenerate([5] * 300)
        with pytest.raises(TypeError, match=r"agenerate\(\).*unknown"):
            await llm.agenerate("a", unknown=1)

    asyncio.run(run())
