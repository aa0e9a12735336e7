"""The openai package against the server: what it parses must be what the model said."""

import json
import sys

import openai
from openai import OpenAI

base, chat_model, embed_model = sys.argv[1:4]
client = OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
ask = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."

names = [m.id for m in client.models.list()]
assert chat_model in names and embed_model in names, names

whole = client.chat.completions.create(model=chat_model, messages=ask, temperature=0, max_tokens=30)
assert whole.choices[0].message.content == PARIS, whole
assert whole.choices[0].finish_reason == "stop" and whole.usage.completion_tokens == 8, whole

text, usage, reasons = "", None, []
stream = client.chat.completions.create(
    model=chat_model, messages=ask, temperature=0, max_completion_tokens=30, stream=True, stream_options={"include_usage": True}
)
for chunk in stream:
    usage = chunk.usage or usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
assert (text, reasons) == (PARIS, ["stop"]) and usage.total_tokens == whole.usage.total_tokens, (text, reasons, usage)

told = client.chat.completions.create(
    model=chat_model, messages=ask, temperature=0, max_tokens=5, logprobs=True, top_logprobs=3
).choices[0].logprobs.content
assert "".join(t.token for t in told) == "The capital of France is", told
assert all(len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob == t.logprob <= 0 for t in told)
assert b"".join(bytes(t.bytes) for t in told) == b"The capital of France is"

stopped = client.chat.completions.create(model=chat_model, messages=ask, temperature=0, stop=" Paris")
assert stopped.choices[0].message.content == "The capital of France is", stopped

several = client.chat.completions.create(model=chat_model, messages=ask, n=2, seed=1, temperature=1.2, max_tokens=12)
again = client.chat.completions.create(model=chat_model, messages=ask, n=2, seed=1, temperature=1.2, max_tokens=12)
assert [c.message.content for c in several.choices] == [c.message.content for c in again.choices]

continued = client.completions.create(model=chat_model, prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=6)
assert continued.choices[0].text.startswith(" 6"), continued

schema = {
    "type": "object", "additionalProperties": False, "required": ["city", "river"],
    "properties": {"city": {"type": "string", "maxLength": 20}, "river": {"enum": ["Seine", "Rhine"]}},
}
formed = client.chat.completions.create(
    model=chat_model, messages=ask, temperature=0, max_tokens=60,
    response_format={"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": schema}},
)
place = json.loads(formed.choices[0].message.content)
assert set(place) == {"city", "river"} and place["river"] in ("Seine", "Rhine"), place

tool = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Berlin"]}}, "required": ["city"], "additionalProperties": False},
    },
}
called = client.chat.completions.create(
    model=chat_model, messages=[{"role": "user", "content": "What is the weather in Paris?"}], tools=[tool],
    tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=80,
)
call = called.choices[0].message.tool_calls[0]
assert called.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather", called
assert json.loads(call.function.arguments)["city"] in ("Paris", "Berlin"), called
parts = client.chat.completions.create(
    model=chat_model, messages=[{"role": "user", "content": "What is the weather in Paris?"}], tools=[tool],
    tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=80, stream=True,
)
arguments = "".join(t.function.arguments or "" for c in parts for d in c.choices for t in d.delta.tool_calls or [])
assert json.loads(arguments) == json.loads(call.function.arguments), arguments

response = client.responses.create(model=chat_model, input="What is the capital of France?", temperature=0, max_output_tokens=30)
assert response.output_text == PARIS and response.status == "completed", response
kinds, deltas = [], ""
for event in client.responses.create(model=chat_model, input="What is the capital of France?", temperature=0, stream=True):
    kinds.append(event.type)
    deltas += event.delta if event.type == "response.output_text.delta" else ""
assert deltas == PARIS and kinds[-1] == "response.completed", kinds

vectors = client.embeddings.create(model=embed_model, input=["a hen", "a chicken", "the stock market"]).data
hen, chicken, market = (v.embedding for v in vectors)
dot = lambda a, b: sum(x * y for x, y in zip(a, b))
assert len(hen) == 384 and abs(dot(hen, hen) - 1) < 1e-4 and dot(hen, chicken) > dot(hen, market) + 0.2
floats = client.embeddings.create(model=embed_model, input="a hen", encoding_format="float").data[0].embedding
assert max(abs(a - b) for a, b in zip(floats, hen)) < 1e-5

try:
    client.chat.completions.create(model=chat_model, messages=ask, extra_body={"use_magic": True})
    raise SystemExit("an unknown field was taken")
except openai.BadRequestError as e:
    assert e.param == "use_magic" and "use_magic is not known" in e.message, e
try:
    client.chat.completions.create(model="nobody", messages=ask)
    raise SystemExit("an unknown model answered")
except openai.NotFoundError as e:
    assert e.code == "model_not_found", e
print(f"openai {openai.__version__}: models, chat, stream, logprobs, stop, n, completions, json_schema, tools, responses, embeddings, errors")
