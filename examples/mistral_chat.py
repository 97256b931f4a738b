"""Ask a Galerne endpoint a question with the Mistral client, and read what the answer took.

    python3 examples/mistral_chat.py [QUESTION]

Needs the package `mistralai`. Reads GALERNE_URL, GALERNE_API_KEY and GALERNE_MODEL; `eval "$(galerne env)"` sets the first two.
"""

import os
import sys

from mistralai.client import Mistral

question = sys.argv[1] if len(sys.argv) > 1 else "What is the capital of France?"

# The client appends /v1 itself.
with Mistral(
    server_url=os.environ.get("GALERNE_URL", "http://127.0.0.1:8080"),
    api_key=os.environ["GALERNE_API_KEY"],
) as client:
    model = os.environ.get("GALERNE_MODEL") or client.models.list().data[0].id
    reply = client.chat.complete(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=64,
    )
print(reply.choices[0].message.content)

# Energy and carbon are Galerne's own fields; the client keeps them as extra attributes.
usage = reply.usage.model_dump()
print(
    f"{model}: {reply.usage.prompt_tokens} tokens in, {reply.usage.completion_tokens} out,"
    f" {usage.get('energy_joules')} J, {usage.get('co2e_grams')} g CO2e ({usage.get('energy_method')})",
    file=sys.stderr,
)
