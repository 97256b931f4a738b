"""Ask a Galerne endpoint a question with the OpenAI client, and read what the answer took.

    python3 examples/openai_chat.py [QUESTION]

Needs the package `openai`. Reads GALERNE_URL, GALERNE_API_KEY and GALERNE_MODEL; `eval "$(galerne env)"` sets the first two.
"""

import os
import sys

from openai import OpenAI

question = sys.argv[1] if len(sys.argv) > 1 else "What is the capital of France?"

client = OpenAI(
    base_url=os.environ.get("GALERNE_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ["GALERNE_API_KEY"],
)
model = os.environ.get("GALERNE_MODEL") or client.models.list().data[0].id

stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": question}],
    temperature=0,
    max_tokens=64,
    stream=True,
    stream_options={"include_usage": True},
)
usage = None
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print(chunk.choices[0].delta.content, end="", flush=True)
    usage = chunk.usage or usage
print()

# Energy and carbon are Galerne's own fields; the client keeps them as extra attributes.
extra = usage.model_extra or {}
print(
    f"{model}: {usage.prompt_tokens} tokens in, {usage.completion_tokens} out,"
    f" {extra.get('energy_joules')} J, {extra.get('co2e_grams')} g CO2e ({extra.get('energy_method')})",
    file=sys.stderr,
)
