"""Makes golden cases once a session, when a test first asks for them."""

import pytest

from golden.make_golden import CASES, Golden, random_case


@pytest.fixture(scope="session")
def golden(tmp_path_factory, tiny_tokenizer_file):
    """`golden(name)` makes (once) and returns a case; `golden(seed)` a random one."""
    made: dict[str | int, Golden] = {}
    folder = tmp_path_factory.mktemp("golden")

    def get(key: str | int) -> Golden:
        if key not in made:
            case = CASES[key] if isinstance(key, str) else random_case(key)
            made[key] = case.make(folder / str(key), tiny_tokenizer_file)
        return made[key]

    return get
