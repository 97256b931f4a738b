"""Answers held against OpenAI's own document (version 2.3.0, as `llm-comply` brings it), for the operations served here.

llm-comply asks nine things as a program would; schemathesis draws requests from the document, good ones and bad ones.
"""

import json
import pathlib
import re
import subprocess
import sys

import llm_comply
import pytest

BESIDE = pathlib.Path(sys.executable).parent
DOCUMENT = pathlib.Path(llm_comply.__file__).parent / "specs" / "openai_chat.json"

# What the model or the engine of these tests cannot do, each with its reason; everything else must pass.
NOT_SERVED = {
    "chat-image-input": "the model reads text only: refused by name",
    "chat-reasoning-summary": "llm-comply skips it for models that do not reason",
}

OPERATIONS = ["createChatCompletion", "createCompletion", "createEmbedding", "listModels", "retrieveModel"]

# `positive_data_acceptance` is left out: the document allows combinations that OpenAI itself refuses.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"


def test_llm_comply_finds_what_openais_clients_need(site):
    command = [str(BESIDE / "llm-comply"), "--base-url", site.url + "/v1", "--api-key", site.api_key]
    command += ["--model", site.endpoint, "--format", "openai-chat", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    results = {result["id"]: result for result in json.loads(ended.stdout)["results"]}
    assert len(results) == 9, ended.stdout
    failed = {
        name: result for name, result in results.items() if result["status"] == "failed" and name not in NOT_SERVED
    }
    assert failed == {}


@pytest.fixture(scope="session")
def document(site, tmp_path_factory):
    """The document, for one model and short answers, and with the errors it leaves out (it lists none)."""
    text = json.loads(DOCUMENT.read_text())
    for path, item in text["paths"].items():
        for operation in item.values():
            if operation.get("operationId") not in OPERATIONS:
                continue
            error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}}
            for status in ("400", "401", "403", "404", "405", "413", "415", "422", "429", "503"):
                operation["responses"].setdefault(status, {"description": "an error"} | error)
    narrow(text, site.endpoint)
    file = tmp_path_factory.mktemp("document") / "openai.json"
    file.write_text(json.dumps(text))
    return file


def narrow(text, name):
    """Requests drawn for any other model would all be answered 404, and long answers would take minutes."""
    longest = {"CreateChatCompletionRequest": "max_completion_tokens", "CreateCompletionRequest": "max_tokens"}
    for schema in ("CreateChatCompletionRequest", "CreateCompletionRequest", "CreateEmbeddingRequest"):
        for part in [text["components"]["schemas"][schema], *text["components"]["schemas"][schema].get("allOf", [])]:
            if "model" not in part.get("properties", {}):
                continue
            part["properties"]["model"] = {"type": "string", "enum": [name]}
            if schema in longest:
                part["properties"][longest[schema]] = {"type": "integer", "enum": [4]}
                part["required"] = [*part["required"], longest[schema]]


def test_requests_drawn_from_openais_document_get_answers_of_its_shape(site, document):
    command = [str(BESIDE / "schemathesis"), "run", str(document), "--url", site.url + "/v1", "--seed", "1"]
    command += ["--header", f"Authorization: Bearer {site.api_key}", "--checks", CHECKS, "--max-examples", "20"]
    command += ["--request-timeout", "60", "--phases", "examples,coverage,fuzzing"]
    for operation in OPERATIONS:
        command += ["--include-operation-id", operation]
    # It keeps what it found below the working directory.
    folder = document.parent
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    tested = re.search(r"Tested: (\d+)", ended.stdout)
    assert tested and int(tested.group(1)) == len(OPERATIONS), ended.stdout[-4000:]
    assert ended.returncode == 0, ended.stdout[-8000:]
