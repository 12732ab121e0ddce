"""What a person may do to a conversation."""

from __future__ import annotations

import json
from pathlib import Path

from llama_rt.cli.conversation import Conversation


def talked(turns: int, system: str | None = "Be kind.") -> Conversation:
    conversation = Conversation(system)
    for number in range(turns):
        conversation.ask(f"question {number}")
        conversation.answer(f"answer {number}")
    return conversation


def contents(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.messages]


def test_undo_takes_back_question_and_answer() -> None:
    conversation = talked(2)
    assert conversation.undo() == "question 1"
    assert contents(conversation) == ["Be kind.", "question 0", "answer 0"]


def test_undo_takes_back_an_unanswered_question() -> None:
    conversation = talked(1)
    conversation.ask("unanswered")
    assert conversation.undo() == "unanswered"
    assert conversation.turns == 1


def test_undo_of_nothing_keeps_the_system_prompt() -> None:
    conversation = talked(0)
    assert conversation.undo() is None
    assert contents(conversation) == ["Be kind."]


def test_drop_oldest_keeps_system_prompt_and_newest_turn() -> None:
    conversation = talked(3)
    assert conversation.drop_oldest()
    assert contents(conversation)[:2] == ["Be kind.", "question 1"]
    assert conversation.drop_oldest()
    assert not conversation.drop_oldest()
    assert contents(conversation) == ["Be kind.", "question 2", "answer 2"]


def test_system_prompt_is_replaced_set_and_removed_at_the_front() -> None:
    conversation = talked(1, system=None)
    assert conversation.system is None
    conversation.system = "Be brief."
    conversation.system = "Be very brief."
    assert contents(conversation) == ["Be very brief.", "question 0", "answer 0"]
    conversation.system = None
    assert contents(conversation) == ["question 0", "answer 0"]


def test_reset_keeps_the_system_prompt_only() -> None:
    conversation = talked(3)
    conversation.reset()
    assert contents(conversation) == ["Be kind."]
    assert conversation.last_question is None


def test_save_writes_what_chat_interfaces_take(tmp_path: Path) -> None:
    conversation = talked(1)
    conversation.ask("Grüße, 世界")
    path = tmp_path / "talk.json"
    conversation.save(path)
    text = path.read_text(encoding="utf-8")
    assert "世界" in text
    assert json.loads(text) == conversation.messages
