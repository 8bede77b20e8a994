"""Settings are read once, on first use, and a missing variable is named."""

import pytest

from agentkit.settings import (
    ChunkSettings,
    ConfigurationError,
    DatabaseSettings,
    HttpSettings,
    RateLimitSettings,
    forget,
    load,
)


def test_the_environment_is_read_on_first_use_and_then_kept(monkeypatch):
    monkeypatch.setenv("RATE_LIMIT_SCALE", "2.5")
    assert load(RateLimitSettings).rate_limit_scale == 2.5
    monkeypatch.setenv("RATE_LIMIT_SCALE", "9")
    assert load(RateLimitSettings).rate_limit_scale == 2.5
    forget()
    assert load(RateLimitSettings).rate_limit_scale == 9


def test_missing_variables_are_all_named(monkeypatch):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("VECTOR_DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL: .*; VECTOR_DATABASE_URL: "):
        load(DatabaseSettings)


def test_a_secret_is_in_no_text_that_a_log_could_show(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@host/app")
    monkeypatch.setenv("VECTOR_DATABASE_URL", "postgresql://me:hunter2@host/vectors")
    found = load(DatabaseSettings)
    assert "hunter2" not in f"{found!r} {found} {found.model_dump_json()}"


def test_an_unusable_value_is_refused_without_being_repeated(monkeypatch):
    monkeypatch.setenv("RATE_LIMIT_SCALE", "-4711")
    with pytest.raises(ConfigurationError, match="RATE_LIMIT_SCALE") as refused:
        load(RateLimitSettings)
    assert "4711" not in str(refused.value)


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("ALLOWED_ORIGINS", "")
    assert load(HttpSettings).allowed_origins == ()


@pytest.mark.parametrize(
    ("variables", "refused"),
    [
        # Less than half: 425 is the half of 850.
        pytest.param({"PASSAGE_OVERLAP_CHARACTERS": "425"}, "PASSAGE_OVERLAP_CHARACTERS", id="half of it repeated"),
        pytest.param({"PASSAGE_CHARACTERS": "300"}, "PASSAGE_OVERLAP_CHARACTERS", id="too small for what is repeated"),
        pytest.param({"PASSAGE_CHARACTERS": "50"}, "PASSAGE_CHARACTERS", id="no sentence fits"),
        pytest.param({"EMBEDDING_WINDOW_TOKENS": "16"}, "EMBEDDING_WINDOW_TOKENS", id="no window for a title"),
    ],
)
def test_passages_that_could_not_be_made_are_refused_by_their_variable(monkeypatch, variables, refused):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=rf": {refused}: "):
        load(ChunkSettings)


def test_a_passage_may_repeat_a_little_less_than_half(monkeypatch):
    monkeypatch.setenv("PASSAGE_OVERLAP_CHARACTERS", "424")
    assert load(ChunkSettings).passage_overlap_characters == 424
