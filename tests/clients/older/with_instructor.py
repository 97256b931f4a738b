"""instructor: answers as pydantic objects, by a schema as JSON mode asks for it and by a tool that must be called."""

import instructor
import openai
import pydantic
import pytest

QUESTION = [{"role": "user", "content": "The mistral blows from the north. Which wind, and from where?"}]


class Wind(pydantic.BaseModel):
    """A wind and where it comes from."""

    name: str = pydantic.Field(max_length=20)
    direction: str = pydantic.Field(pattern="^(north|east|south|west)$")
    force: int = pydantic.Field(ge=0, le=12)


@pytest.fixture
def raw(base_url, api_key):
    return openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)


# What instructor sends: `response_format` with a schema, or one tool and `tool_choice` with its name.
@pytest.mark.parametrize("mode", [instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_is_an_object(raw, model, mode, temperature):
    client = instructor.from_openai(raw, mode=mode)
    # No second try: the first answer keeps to the schema, whatever the model is inclined to say.
    wind, answer = client.chat.completions.create_with_completion(
        model=model,
        messages=QUESTION,
        response_model=Wind,
        max_retries=0,
        max_tokens=400,
        temperature=temperature,
        seed=7,
    )
    assert isinstance(wind, Wind)
    assert answer.usage.completion_tokens > 0
    called = answer.choices[0].message.tool_calls
    assert bool(called) == (mode == instructor.Mode.TOOLS)


def test_a_stream_of_partial_objects_ends_with_a_whole_one(raw, model):
    client = instructor.from_openai(raw, mode=instructor.Mode.TOOLS)
    partial = list(client.chat.completions.create_partial(
        model=model, messages=QUESTION, response_model=Wind, max_retries=0, max_tokens=200, temperature=0.0
    ))
    assert len(partial) > 1
    assert Wind.model_validate(partial[-1].model_dump())
