"""The ollama package against the server."""

import sys

import ollama

base, model, embed_model = sys.argv[1:4]
client = ollama.Client(host=base)
ask = [{"role": "user", "content": "What is the capital of France?"}]
options = {"temperature": 0, "repeat_penalty": 1.0, "num_predict": 30}
PARIS = "The capital of France is Paris."

assert {model, embed_model} <= {m.model for m in client.list().models}
assert client.show(model).modelinfo["general.architecture"] == "llama"
whole = client.chat(model=model, messages=ask, options=options)
assert whole.message.content == PARIS and whole.done_reason == "stop" and whole.eval_count == 8, whole
text = "".join(part.message.content for part in client.chat(model=model, messages=ask, options=options, stream=True))
assert text == PARIS, text
made = client.generate(model=model, prompt="What is the capital of France?", options=options)
assert made.response == PARIS, made
text = "".join(p.response for p in client.generate(model=model, prompt="1, 2, 3, 4, 5,", raw=True, options=options, stream=True))
assert text.startswith(" 6"), text
schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
formed = client.chat(model=model, messages=ask, format=schema, options=options)
assert formed.message.content in ('{"yes": true}', '{"yes": false}'), formed
hen, chicken, market = client.embed(model=embed_model, input=["a hen", "a chicken", "the stock market"]).embeddings
dot = lambda a, b: sum(x * y for x, y in zip(a, b))
assert dot(hen, chicken) > dot(hen, market) + 0.2
try:
    client.chat(model="nobody", messages=ask)
    raise SystemExit("an unknown model answered")
except ollama.ResponseError as e:
    assert e.status_code == 404 and "there is no model" in e.error, e
print("ollama: list, show, chat, generate, streams, format, embed, errors")
