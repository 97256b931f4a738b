"""langchain-openai and langchain-mistralai, unchanged: what most programs put between themselves and an API."""

import pytest
from langchain_mistralai import ChatMistralAI
from langchain_openai import ChatOpenAI

QUESTION = "Name one wind of the Mediterranean."


def through_openai(site, **more):
    settings = dict(base_url=site.url + "/v1", api_key=site.api_key, model=site.endpoint, max_retries=0) | more
    return ChatOpenAI(**settings)


def through_mistral(site):
    return ChatMistralAI(
        endpoint=site.url + "/v1", api_key=site.api_key, model=site.endpoint, max_tokens=12, max_retries=0
    )


def test_an_answer_through_langchain_openai_keeps_tokens_and_energy(site):
    answer = through_openai(site, max_tokens=12).invoke(QUESTION)
    assert answer.content.strip()
    assert 0 < answer.usage_metadata["output_tokens"] <= 12
    assert float(answer.response_metadata["token_usage"]["energy_joules"]) > 0


def test_a_stream_through_langchain_openai_has_its_usage_once(site):
    chunks = list(through_openai(site, max_tokens=12).stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks).strip()
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert len(usages) == 1, "LangChain adds them up: a second one would double the count"
    assert 0 < usages[0]["output_tokens"] <= 12


def test_langchain_openai_raises_the_openai_errors(site):
    import openai

    with pytest.raises(openai.NotFoundError):
        through_openai(site, model="nothing-like-it").invoke(QUESTION)


def test_an_answer_and_a_stream_through_langchain_mistralai(site):
    model = through_mistral(site)
    answer = model.invoke(QUESTION)
    assert answer.content.strip()
    assert 0 < answer.usage_metadata["output_tokens"] <= 12
    chunks = list(model.stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks).strip()
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert len(usages) == 1 and usages[0]["output_tokens"] > 0
