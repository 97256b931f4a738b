"""litellm as a client: what it makes of our answers, streams and errors."""

import litellm
import pytest

QUESTION = [{"role": "user", "content": "Name one wind of the Mediterranean."}]


@pytest.fixture
def ask(base_url, api_key, model):
    return dict(model=f"openai/{model}", api_base=base_url, api_key=api_key, messages=QUESTION, max_tokens=8, num_retries=0)


def test_an_answer(ask):
    answer = litellm.completion(**ask)
    assert answer.choices[0].message.content.strip()
    assert 0 < answer.usage.completion_tokens <= 8


def test_a_stream(ask):
    chunks = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).strip()
    assert [chunk.usage.completion_tokens for chunk in chunks if getattr(chunk, "usage", None)][-1] > 0


def test_errors_are_told_apart(ask):
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**(ask | {"model": "openai/nothing-like-it"}))
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**(ask | {"api_key": "galerne_" + "x" * 36}))
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**(ask | {"messages": [{"role": "user", "content": "wind " * 30_000}]}))
