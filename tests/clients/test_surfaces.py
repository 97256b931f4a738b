"""The exact surfaces and the union, with the clients they are for."""

import openai
import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError


@pytest.fixture
def exact(site):
    return openai.OpenAI(base_url=site.url + "/openai/v1", api_key=site.api_key, max_retries=0, timeout=120)


@pytest.fixture
def mistral(site):
    with Mistral(server_url=site.url + "/mistral", api_key=site.api_key, timeout_ms=120_000) as client:
        yield client


def test_openais_client_finds_its_own_surface_whole(exact, site, question):
    answer = exact.chat.completions.create(model=site.endpoint, messages=question, max_completion_tokens=6, user="u")
    assert answer.choices[0].message.content.strip() and answer.usage.completion_tokens <= 6
    assert answer.choices[0].logprobs is None and "logprobs" in answer.choices[0].model_fields_set
    assert "refusal" in answer.choices[0].message.model_fields_set
    chunks = list(exact.chat.completions.create(model=site.endpoint, messages=question, max_tokens=6, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks), "usage is told to those who ask"
    assert site.endpoint in [model.id for model in exact.models.list().data]


def test_mistrals_client_finds_its_own_surface_whole(mistral, site, question):
    answer = mistral.chat.complete(model=site.endpoint, messages=question, max_tokens=6, random_seed=3, safe_prompt=False)
    assert answer.choices[0].message.content.strip() and answer.usage.completion_tokens <= 6
    events = list(mistral.chat.stream(model=site.endpoint, messages=question, max_tokens=6))
    assert events[-1].data.usage.completion_tokens <= 6
    assert mistral.models.retrieve(model_id=site.endpoint).id == site.endpoint


def test_the_others_words_are_refused_and_the_own_ones_named(exact, mistral, site, question):
    with pytest.raises(openai.BadRequestError) as caught:
        exact.chat.completions.create(model=site.endpoint, messages=question, extra_body={"random_seed": 3})
    assert caught.value.body["code"] == "unknown_parameter" and caught.value.body["param"] == "random_seed"
    assert "`seed`" in str(caught.value)
    reply = site.http.post(
        "/mistral/v1/chat/completions", json={"model": site.endpoint, "messages": question, "seed": 3}
    )
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["body", "seed"]
    with pytest.raises(HTTPValidationError) as caught:
        mistral.chat.complete(model=site.endpoint, messages=question, safe_prompt=True)
    detail = caught.value.data.detail[0]
    assert detail.loc == ["body", "safe_prompt"] and "only be `false`" in detail.msg


def test_errors_are_the_originals_own(exact, mistral, site, question):
    with pytest.raises(openai.NotFoundError) as caught:
        exact.chat.completions.create(model=site.endpoint + "x", messages=question)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert (caught.value.body["type"], caught.value.body["code"]) == ("invalid_request_error", "model_not_found")
    wrong = openai.OpenAI(base_url=site.url + "/openai/v1", api_key="galerne_" + "x" * 36, max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        wrong.models.list()
    assert caught.value.body["code"] == "invalid_api_key"
    with pytest.raises(SDKError) as caught:
        mistral.chat.complete(model=site.endpoint + "x", messages=question)
    assert caught.value.status_code == 404 and '"object":"error"' in caught.value.body


def test_a_misspelt_field_is_told_the_nearest(client, site, question):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=site.endpoint, messages=question, extra_body={"temprature": 1})
    assert "did you mean `temperature`" in str(caught.value)


def test_labels_and_hints_are_taken_as_the_originals_take_them(client, site, question):
    answer = client.chat.completions.create(
        model=site.endpoint,
        messages=question,
        max_tokens=2,
        metadata={"a": "b"},
        store=False,
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        service_tier="auto",
        prediction={"type": "content", "content": "north"},
    )
    assert answer.service_tier == "default"
    patient = client.chat.completions.create(model=site.endpoint, messages=question, max_tokens=2, service_tier="flex")
    assert patient.service_tier == "flex"
    for asked in ({"store": True}, {"modalities": ["text", "audio"]}, {"verbosity": "low"}):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=site.endpoint, messages=question, max_tokens=2, extra_body=asked)
        assert caught.value.body["code"] == "unsupported_value", asked


def test_what_is_documented_and_not_served_says_so(exact, mistral, site):
    for call in (
        lambda: exact.images.generate(prompt="a wind"),
        lambda: exact.moderations.create(input="a"),
        lambda: exact.models.delete(site.endpoint),
        lambda: exact.chat.completions.list(),
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            call()
        assert caught.value.status_code == 501 and caught.value.body["code"] == "not_served"
    with pytest.raises(SDKError) as caught:
        mistral.classifiers.moderate(model=site.endpoint, inputs=["a"])
    assert caught.value.status_code == 501
    assert site.http.put("/v1/chat/completions").status_code == 405
    wrong = site.http.post("/v1/chat/completion", json={})
    assert wrong.status_code == 404 and "`/v1/chat/completions`" in wrong.json()["message"]


def test_a_text_between_is_mistrals_alone_and_needs_a_model_that_can(exact, mistral, site):
    with pytest.raises((SDKError, HTTPValidationError)) as caught:
        mistral.fim.complete(model=site.endpoint, prompt="def a(", suffix="return 1", max_tokens=4)
    assert caught.value.status_code in (400, 422) and "suffix" in caught.value.body
    with pytest.raises(openai.NotFoundError):
        exact.post("/fim/completions", body={}, cast_to=object)
    answer = mistral.fim.complete(model=site.endpoint, prompt="The sea is", max_tokens=4)
    assert answer.object == "chat.completion" and answer.choices[0].message.content
    pieces = [event.data for event in mistral.fim.stream(model=site.endpoint, prompt="The sea is", max_tokens=4)]
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) and pieces[-1].usage.completion_tokens <= 4


def test_tokens_are_told_for_nothing(site):
    reply = site.http.post("/v1/tokenize", json={"model": site.endpoint, "prompt": "The sea is"})
    assert reply.status_code == 200, reply.text
    assert reply.json()["count"] == len(reply.json()["tokens"]) > 0
    chat = site.http.post(
        "/tokenize", json={"model": site.endpoint, "messages": [{"role": "user", "content": "The sea is"}]}
    )
    assert chat.json()["count"] > reply.json()["count"], "the template is counted too"


def test_a_response_is_a_chat_told_as_items(exact, site):
    answer = exact.responses.create(
        model=site.endpoint, input="Name one wind.", instructions="Be brief.", max_output_tokens=16, metadata={"a": "b"}
    )
    assert answer.object == "response" and answer.status in ("completed", "incomplete")
    assert answer.output_text.strip() and answer.output[0].type == "message"
    assert 0 < answer.usage.output_tokens <= 16 and answer.usage.input_tokens_details.cached_tokens >= 0
    assert answer.store is False if hasattr(answer, "store") else True
    assert answer.metadata == {"a": "b"} and not hasattr(answer.usage, "energy_joules")
    again = exact.responses.create(
        model=site.endpoint,
        input=[
            {"role": "user", "content": "Name one wind."},
            *[item.model_dump() for item in answer.output],
            {"role": "user", "content": [{"type": "input_text", "text": "Another one."}]},
        ],
        max_output_tokens=8,
    )
    assert again.usage.input_tokens > answer.usage.input_tokens
    with pytest.raises(openai.BadRequestError) as caught:
        exact.responses.create(model=site.endpoint, input="a", previous_response_id=answer.id)
    assert caught.value.body["param"] == "previous_response_id"
    with pytest.raises(openai.InternalServerError):
        exact.responses.retrieve(answer.id)


def test_a_streamed_response_has_its_events_in_order(exact, site):
    events = list(exact.responses.create(model=site.endpoint, input="Name one wind.", max_output_tokens=12, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text.strip() and events[-1].response.output_text == text
    assert 0 < events[-1].response.usage.output_tokens <= 12
