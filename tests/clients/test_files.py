"""Files and batches through the openai and mistralai packages, unchanged, answered by the real model."""

import json
import time

import httpx2
import openai
import pytest
from mistralai.client.errors import SDKError


def lines(model, count, tokens=6):
    for number in range(count):
        body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": f"Say {number}."}]}
        yield {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def jsonl(values):
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def wait(read, ended, seconds=180):
    deadline = time.monotonic() + seconds
    while True:
        found = read()
        if found.status in ended:
            return found
        assert time.monotonic() < deadline, f"still {found.status}: {found}"
        time.sleep(0.2)


def test_openais_files_live_as_long_as_asked_and_are_read_back(client):
    sent = jsonl([{"a": 1}, {"b": "é"}])
    made = client.files.create(
        file=("ünder/score.jsonl", sent), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert made.object == "file" and made.bytes == len(sent) and made.filename == "score.jsonl"
    assert made.expires_at == made.created_at + 3600
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == sent
    assert made.id in [file.id for file in client.files.list(purpose="user_data")]
    assert client.files.delete(made.id).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_openais_lists_go_on_over_pages(client):
    made = [client.files.create(file=(f"{n}.txt", b"x"), purpose="user_data").id for n in range(5)]
    seen = [file.id for file in client.files.list(purpose="user_data", limit=2, order="asc")]
    assert [id for id in seen if id in made] == made
    for id in made:
        client.files.delete(id)


def test_a_purpose_that_nothing_reads_is_refused_by_name(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("a.txt", b"x"), purpose="assistants")
    assert "assistants" in caught.value.message and caught.value.param == "purpose"


def test_an_openai_batch_is_answered_at_half_the_price(client, site):
    bad = {"custom_id": "bad", "method": "POST", "url": "/v1/chat/completions"}
    bad["body"] = {"model": site.endpoint, "messages": [{"role": "user", "content": "x"}], "max_tokens": -1}
    upload = client.files.create(file=("requests.jsonl", jsonl([*lines(site.endpoint, 6), bad])), purpose="batch")
    batch = client.batches.create(
        input_file_id=upload.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "1"}
    )
    assert batch.status == "validating" and batch.metadata == {"run": "1"}
    batch = wait(lambda: client.batches.retrieve(batch.id), ["completed", "failed", "cancelled", "expired"])
    assert batch.status == "completed", batch
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (7, 6, 1)
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert sorted(answer["custom_id"] for answer in answers) == [f"r{n}" for n in range(6)]
    completion = openai.types.chat.ChatCompletion.model_validate(answers[0]["response"]["body"])
    assert completion.choices[0].message.content.strip()
    assert batch.usage.output_tokens == sum(answer["response"]["body"]["usage"]["completion_tokens"] for answer in answers)
    [refused] = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert refused["custom_id"] == "bad" and refused["response"]["status_code"] == 400
    assert batch.id in [found.id for found in client.batches.list(limit=1)]

    # What each token cost is half of what the price book says, and the record says why.
    price = site.api("GET", "/price-books")["items"][-1]["spec"]
    assert price["batch_percent"] == 50
    id = answers[0]["response"]["request_id"]
    deadline = time.monotonic() + 30
    while not (found := site.api("GET", f"/usage?request={id}")["items"]):
        assert time.monotonic() < deadline, "the answer is not in the ledger"
        time.sleep(0.2)
    record, used = found[0], found[0]["quantities"]
    assert record["batch"] == {"batch_id": batch.id, "price_percent": 50}
    each = {"prompt": used["prompt_tokens"], "cached": used["cached_tokens"], "completion": used["completion_tokens"]}
    full = sum(each[kind] * price["default"][kind] for kind in each)
    assert 2 * (used["micros"] * 1_000_000 + used["picos"]) == full > 0, (used, price)
    told = site.cli("why", id)
    assert told.returncode == 0 and f"at 50 % of it as a request of {batch.id}" in told.stdout, told.stdout + told.stderr


def test_faults_of_lines_are_told_as_openai_tells_them(client, site):
    good = list(lines(site.endpoint, 1))
    upload = client.files.create(file=("requests.jsonl", jsonl(good) + b"{\n" + jsonl(good)), purpose="batch")
    batch = client.batches.create(input_file_id=upload.id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = wait(lambda: client.batches.retrieve(batch.id), ["failed", "completed"])
    assert batch.status == "failed"
    assert [(fault.code, fault.line) for fault in batch.errors.data] == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 3),
    ]


def test_a_cancelled_batch_keeps_its_answers(client, site):
    upload = client.files.create(file=("requests.jsonl", jsonl(lines(site.endpoint, 60, 24))), purpose="batch")
    batch = client.batches.create(input_file_id=upload.id, endpoint="/v1/chat/completions", completion_window="24h")
    deadline = time.monotonic() + 120
    while client.batches.retrieve(batch.id).request_counts.completed == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = wait(lambda: client.batches.retrieve(batch.id), ["cancelled", "completed"])
    assert batch.status == "cancelled"
    answers = client.files.content(batch.output_file_id).text.splitlines()
    errors = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert len(answers) + len(errors) == 60 and len(answers) == batch.request_counts.completed > 0
    assert errors[0]["error"]["code"] == "batch_cancelled"


def test_mistrals_files_have_links_and_lists(site):
    with site.mistral() as client:
        sent = jsonl([{"body": {"messages": []}}])
        made = client.files.upload(file={"file_name": "requests.jsonl", "content": sent}, purpose="batch", expiry=24)
        assert (made.sample_type, made.source, made.num_lines, made.size_bytes) == ("batch_request", "upload", 1, len(sent))
        assert made.expires_at == made.created_at + 24 * 3600
        assert client.files.retrieve(file_id=made.id).deleted is False
        listed = client.files.list(page=0, page_size=10, sample_type=["batch_request"], search="requests")
        assert made.id in [file.id for file in listed.data] and listed.total >= 1
        assert client.files.download(file_id=made.id).read() == sent
        url = client.files.get_signed_url(file_id=made.id, expiry=1).url
        assert httpx2.get(url, trust_env=False).content == sent, "without a key"
        assert client.files.delete(file_id=made.id).deleted is True
        with pytest.raises(SDKError) as caught:
            client.files.retrieve(file_id=made.id)
        assert caught.value.status_code == 404


def test_a_mistral_job_runs_a_file_and_requests_sent_with_it(site):
    message = {"max_tokens": 6, "messages": [{"role": "user", "content": "Say one."}]}
    with site.mistral() as client:
        sent = jsonl({"custom_id": str(n), "body": message} for n in range(3))
        upload = client.files.upload(file={"file_name": "requests.jsonl", "content": sent}, purpose="batch")
        job = client.batch.jobs.create(
            input_files=[upload.id], model=site.endpoint, endpoint="/v1/chat/completions", metadata={"run": "m"}
        )
        assert job.status in ("QUEUED", "RUNNING")
        ended = ["SUCCESS", "FAILED", "CANCELLED", "TIMEOUT_EXCEEDED"]
        job = wait(lambda: client.batch.jobs.get(job_id=job.id), ended)
        assert (job.status, job.total_requests, job.succeeded_requests) == ("SUCCESS", 3, 3), job
        answers = [json.loads(line) for line in client.files.download(file_id=job.output_file).read().splitlines()]
        assert sorted(answer["custom_id"] for answer in answers) == ["0", "1", "2"]
        assert client.batch.jobs.list(metadata={"run": "m"}, status=["SUCCESS"]).total >= 1

        requests = [{"custom_id": "inline", "body": message}]
        job = client.batch.jobs.create(requests=requests, model=site.endpoint, endpoint="/v1/chat/completions")
        job = wait(lambda: client.batch.jobs.get(job_id=job.id, inline=True), ended)
        assert job.status == "SUCCESS" and job.outputs[0]["custom_id"] == "inline"
        assert client.batch.jobs.delete(job_id=job.id).deleted is True


def test_the_command_line_uploads_runs_and_reads(site, tmp_path):
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes(jsonl(lines(site.endpoint, 2)))
    made = site.cli("batch", "create", str(requests))
    assert made.returncode == 0, made.stderr
    id = made.stdout.strip()
    deadline = time.monotonic() + 120
    while json.loads(site.cli("batch", "show", id, "-o", "json").stdout)["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.3)
    answers = site.cli("batch", "download", id)
    assert len(answers.stdout.splitlines()) == 2, answers.stderr
    why = site.cli("why", id)
    assert why.returncode == 0 and "every request is done" in why.stdout, why.stderr
    listed = site.cli("file", "list", "--purpose", "batch_output", "-o", "json")
    file = json.loads(listed.stdout)["items"][0]["id"]
    target = tmp_path / "copy.jsonl"
    assert site.cli("file", "download", file, "--to", str(target)).returncode == 0
    assert target.read_text() == answers.stdout
    assert site.cli("file", "delete", file, "--yes").returncode == 0
    assert site.cli("file", "show", file).returncode == 3
