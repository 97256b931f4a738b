"""The openai package, unchanged, against a running Galerne."""

import threading
import time

import openai
import pytest


def test_a_chat_answer_carries_tokens_energy_and_carbon_in_typed_objects(client, site, question):
    answer = client.chat.completions.create(model=site.endpoint, messages=question, max_tokens=12)
    assert answer.object == "chat.completion"
    assert answer.model == site.endpoint
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content.strip()
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 12
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert float(usage.energy_joules) > 0
    assert float(usage.co2e_grams) > 0


def test_a_stream_ends_with_usage_when_asked(client, site, question):
    chunks = list(
        client.chat.completions.create(
            model=site.endpoint, messages=question, max_tokens=12, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip()
    assert len(chunks) > 3, "the answer came in pieces"
    last = chunks[-1]
    assert last.choices == [] and last.usage.completion_tokens > 0
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
    assert float(last.usage.energy_joules) > 0
    assert float(last.usage.co2e_grams) > 0
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] in ("stop", "length") and not any(reasons[:-1])


def test_a_stream_has_no_usage_chunk_when_not_asked(client, site, question):
    ask = dict(model=site.endpoint, messages=question, max_tokens=6, stream=True)
    chunks = list(client.chat.completions.create(**ask))
    assert all(chunk.choices for chunk in chunks), "programs read choices[0] of every chunk"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    # Beside the finish reason, where Mistral's users look for it.
    assert chunks[-1].choices[0].finish_reason and chunks[-1].usage.completion_tokens > 0
    refused = list(client.chat.completions.create(**ask, stream_options={"include_usage": False}))
    assert all(chunk.choices and chunk.usage is None for chunk in refused)


def test_the_same_seed_gives_the_same_answer(client, site, question):
    def once():
        answer = client.chat.completions.create(
            model=site.endpoint, messages=question, max_tokens=16, temperature=0.9, seed=7
        )
        return answer.choices[0].message.content

    assert once() == once()


def test_answers_of_one_setting_have_one_fingerprint(client, site, question):
    ask = dict(model=site.endpoint, messages=question, max_tokens=4)
    first = client.chat.completions.create(**ask).system_fingerprint
    assert first.startswith("fp_")
    streamed = {chunk.system_fingerprint for chunk in client.chat.completions.create(**ask, stream=True)}
    text = client.completions.create(model=site.endpoint, prompt="The wind", max_tokens=2).system_fingerprint
    assert streamed | {text} == {first}


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(client, site):
    ask = [{"role": "user", "content": "Count: one, two, three, four, five, six."}]
    answer = client.chat.completions.create(model=site.endpoint, messages=ask, max_tokens=60, temperature=0)
    words = answer.choices[0].message.content.split()
    assert len(words) > 2
    again = client.chat.completions.create(
        model=site.endpoint, messages=ask, max_tokens=60, temperature=0, stop=[words[2]]
    )
    assert words[2] not in again.choices[0].message.content
    assert again.choices[0].finish_reason == "stop"


def test_a_text_completion_and_its_stream(client, site):
    answer = client.completions.create(model=site.endpoint, prompt="The sea is", max_tokens=8)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.usage.completion_tokens <= 8
    chunks = list(client.completions.create(model=site.endpoint, prompt="The sea is", max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


def test_a_repeated_prompt_reports_cached_tokens(client, site):
    text = "Galerne is a wind of the west of France. " * 12
    ask = [{"role": "user", "content": text + "Where does it blow?"}]
    client.chat.completions.create(model=site.endpoint, messages=ask, max_tokens=2)
    usage = client.chat.completions.create(model=site.endpoint, messages=ask, max_tokens=2).usage
    assert usage.prompt_tokens_details.cached_tokens > 50
    assert usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def test_models_are_listed_and_retrieved(client, site):
    listed = client.models.list().data
    assert site.endpoint in [model.id for model in listed]
    model = client.models.retrieve(site.endpoint)
    assert model.object == "model" and model.owned_by and model.created > 1_700_000_000


def test_embeddings_of_a_chat_model_are_refused_by_name(client, site):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=site.endpoint, input="wind", encoding_format="float")
    assert "answers chats and completions only" in str(caught.value)


def test_a_wrong_key_is_an_authentication_error(site, question):
    wrong = "galerne_" + "x" * 36
    with pytest.raises(openai.AuthenticationError) as caught:
        site.openai(wrong).chat.completions.create(model=site.endpoint, messages=question)
    assert caught.value.status_code == 401
    assert caught.value.body["code"]
    assert wrong not in str(caught.value)


def test_an_unknown_model_names_the_nearest(client, site, question):
    close = site.endpoint[:-1] + "x"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=close, messages=question)
    assert site.endpoint in str(caught.value), "the nearest name is in the message"
    assert caught.value.body["code"] == "model_not_found"


def test_context_overflow_says_the_numbers(client, site):
    long = [{"role": "user", "content": "wind " * 30_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=site.endpoint, messages=long)
    assert caught.value.body["code"] == "context_length_exceeded"
    numbers = [word for word in str(caught.value).replace("`", " ").split() if word.strip(".,;:'()").isdigit()]
    assert len(numbers) >= 2, "the message says how long the prompt is and how long it may be"


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": "hot"},
        {"max_tokens": -5},
        {"max_tokens": "many"},
        {"messages": "hello"},
        {"messages": []},
        {"n": 0},
        {"stop": 7},
        {"no_such_parameter": True},
    ],
    ids=lambda wrong: next(iter(wrong.items())).__repr__(),
)
def test_a_wrong_parameter_is_a_bad_request_that_names_it(client, site, question, wrong):
    body = {"model": site.endpoint, "messages": question, "max_tokens": 2} | wrong
    with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    assert next(iter(wrong)) in str(caught.value)


def test_bodies_that_are_not_json_or_not_utf8_are_refused(site):
    for content in (b"{", b"", b'{"model": "\xff\xfe"}', b"[1, 2", b'"text"', b"{" * 5000):
        reply = site.http.post(
            "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
        )
        assert reply.status_code in (400, 422), (content[:20], reply.status_code, reply.text[:200])
        assert reply.json()["error"]["message"]
        assert reply.json()["message"], "mistralai reads the flat form"


def test_a_body_of_100_mb_is_refused_without_reading_it(site):
    def pieces():
        for _ in range(100):
            yield b"a" * 1_000_000

    started = time.monotonic()
    try:
        reply = site.http.post(
            "/v1/chat/completions",
            content=pieces(),
            headers={"content-type": "application/json", "content-length": "100000000"},
        )
    except Exception as error:  # the server may close while we still send
        import httpx2

        assert isinstance(error, httpx2.TransportError)
    else:
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "body_too_large"
    assert time.monotonic() - started < 10
    assert site.http.get("/v1/models").status_code == 200, "and it goes on serving"


def test_a_rate_limit_is_a_rate_limit_error_with_the_time_to_wait(site, question):
    secret, _ = site.key("one-per-minute", requests_per_minute=1)
    limited = site.openai(secret)
    seen = None
    for _ in range(3):
        try:
            limited.chat.completions.create(model=site.endpoint, messages=question, max_tokens=2)
        except openai.RateLimitError as error:
            seen = error
            break
    assert seen is not None, "three requests passed a limit of one a minute"
    assert seen.status_code == 429
    assert 1 <= int(seen.response.headers["retry-after"]) <= 60
    assert seen.body["code"] == "rate_limited"


def test_an_exhausted_budget_is_402_and_says_what_is_left(site, question):
    secret, key_id = site.key("poor")
    subject = {"kind": "key", "key_id": key_id}
    site.api("POST", "/budgets", name="poor", spec={"subject": subject, "limit_micros": 0, "period": "total"})
    poor = site.openai(secret)
    deadline = time.monotonic() + 10
    while True:
        try:
            poor.chat.completions.create(model=site.endpoint, messages=question, max_tokens=2)
        except openai.APIStatusError as error:
            assert error.status_code == 402
            assert error.body["code"] == "budget_exhausted"
            assert "poor" in str(error)
            break
        # The gateway learns of a new budget with its next snapshot.
        assert time.monotonic() < deadline, "a budget of nothing let requests pass for 10 s"
        time.sleep(0.2)


def test_a_key_without_the_inference_scope_is_a_permission_error(site, question):
    secret, _ = site.key("reader", scopes=("read",))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        site.openai(secret).chat.completions.create(model=site.endpoint, messages=question)
    assert caught.value.body["code"] == "scope_missing"


def test_a_revoked_key_stops_working(site):
    secret, key_id = site.key("leaver")
    site.openai(secret).models.list()
    key = site.api("GET", f"/keys/{key_id}")
    gone = site.http.delete(f"/api/v1/keys/{key_id}", headers={"If-Match": f'"{key["generation"]}"'})
    assert gone.status_code < 300, gone.text
    deadline = time.monotonic() + 10
    while True:
        try:
            site.openai(secret).models.list()
        except openai.AuthenticationError:
            return
        assert time.monotonic() < deadline, "a revoked key still works after 10 s"
        time.sleep(0.2)


def test_a_client_that_leaves_a_stream_frees_the_engine(client, site, question):
    stream = client.chat.completions.create(model=site.endpoint, messages=question, max_tokens=400, stream=True)
    next(iter(stream))
    stream.close()
    started = time.monotonic()
    client.chat.completions.create(model=site.endpoint, messages=question, max_tokens=2)
    assert time.monotonic() - started < 10


def test_a_plain_request_that_is_left_is_charged_for_what_was_computed(site, question):
    secret, key_id = site.key("leaver-in-the-middle")
    asked = {"model": site.endpoint, "messages": question, "max_tokens": 2000, "temperature": 1.5, "seed": 3}
    asked["logit_bias"] = {}
    with pytest.raises(openai.APITimeoutError):
        site.openai(secret).with_options(timeout=1.5).chat.completions.create(**asked)
    deadline = time.monotonic() + 30
    while True:
        records = [record for record in site.api("GET", "/usage")["items"] if record["key_id"] == key_id]
        if records:
            break
        assert time.monotonic() < deadline, "no usage record within 30 s"
        time.sleep(0.2)
    (record,) = records
    assert record["outcome"] == "cancelled" and record["http_status"] == 499
    used = record["quantities"]
    assert used["prompt_tokens"] + used["cached_tokens"] > 5
    assert used["completion_tokens"] > 3, "it was being answered for a second"
    assert used["micros"] * 1_000_000 + used["picos"] > 0 and used["millijoules"] > 0
    why = site.cli("why", record["request_id"])
    assert "the client left" in why.stdout, why.stdout + why.stderr


def test_a_refused_request_can_be_asked_why(site, question):
    secret, _ = site.key("one-a-minute", requests_per_minute=1)
    limited = site.openai(secret)
    refused = None
    for _ in range(3):
        try:
            limited.chat.completions.create(model=site.endpoint, messages=question, max_tokens=2)
        except openai.RateLimitError as error:
            refused = error
            break
    deadline = time.monotonic() + 15
    while True:
        why = site.cli("why", refused.request_id)
        if why.returncode == 0:
            break
        assert time.monotonic() < deadline, why.stdout + why.stderr
        time.sleep(0.3)
    assert "1 requests per minute" in why.stdout and "galerne explain rate_limited" in why.stdout, why.stdout


def test_eight_clients_at_once_are_all_answered(site, question):
    answers, errors = [], []

    def ask(number):
        try:
            reply = site.openai().chat.completions.create(
                model=site.endpoint, messages=question, max_tokens=4 + number
            )
            answers.append(reply.usage.completion_tokens)
        except Exception as error:  # noqa: BLE001, shown below
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(answers) == 8


def test_every_answer_and_every_error_has_a_request_id(client, site, question):
    raw = client.chat.completions.with_raw_response.create(model=site.endpoint, messages=question, max_tokens=2)
    assert raw.headers["x-request-id"].startswith("request_")
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nothing-like-it", messages=question)
    assert caught.value.request_id.startswith("request_")
