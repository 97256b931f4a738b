"""The mistralai package, unchanged, against a running Galerne."""

import pytest
from mistralai.client.errors import SDKError


def test_a_chat_answer_carries_tokens_energy_and_carbon_in_typed_objects(site, question):
    with site.mistral() as client:
        answer = client.chat.complete(model=site.endpoint, messages=question, max_tokens=12)
    assert answer.choices[0].message.content.strip()
    assert 0 < answer.usage.completion_tokens <= 12
    extra = answer.usage.model_dump()
    assert float(extra["energy_joules"]) > 0
    assert float(extra["co2e_grams"]) > 0


def test_a_stream_is_read_to_its_end(site, question):
    pieces, usage = [], None
    with site.mistral() as client:
        for event in client.chat.stream(model=site.endpoint, messages=question, max_tokens=12):
            if event.data.choices:
                pieces.append(event.data.choices[0].delta.content or "")
            usage = event.data.usage or usage
    assert "".join(pieces).strip()
    assert len(pieces) > 3
    assert 0 < usage.completion_tokens <= 12, "on the last chunk, as Mistral sends it, without being asked for"
    assert event.data.choices[0].finish_reason and event.data.usage is usage


def test_random_seed_is_mistrals_word_for_seed(site, question):
    def once():
        with site.mistral() as client:
            answer = client.chat.complete(
                model=site.endpoint, messages=question, max_tokens=16, temperature=0.9, random_seed=7
            )
        return answer.choices[0].message.content

    assert once() == once()


def test_models_are_listed_and_retrieved(site):
    with site.mistral() as client:
        listed = client.models.list().data
        assert site.endpoint in [model.id for model in listed]
        model = client.models.retrieve(model_id=site.endpoint)
    assert model.id == site.endpoint
    assert model.max_context_length > 0
    assert model.capabilities.completion_chat is True
    # SmolLM2's vocabulary marks no gaps, and its template knows no tools.
    assert model.capabilities.completion_fim is False
    assert model.capabilities.function_calling is False


def test_a_wrong_key_an_unknown_model_and_an_overflow_are_errors_with_our_text(site, question):
    wrong = "galerne_" + "x" * 36
    with site.mistral(wrong) as client, pytest.raises(SDKError) as caught:
        client.chat.complete(model=site.endpoint, messages=question)
    assert caught.value.status_code == 401
    with site.mistral() as client, pytest.raises(SDKError) as caught:
        client.chat.complete(model=site.endpoint[:-1] + "x", messages=question)
    assert caught.value.status_code == 404
    assert site.endpoint in caught.value.body
    long = [{"role": "user", "content": "wind " * 30_000}]
    with site.mistral() as client, pytest.raises(SDKError) as caught:
        client.chat.complete(model=site.endpoint, messages=long)
    assert caught.value.status_code == 400
    assert "context_length_exceeded" in caught.value.body
