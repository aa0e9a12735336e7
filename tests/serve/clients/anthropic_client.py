"""The anthropic package against the server."""

import sys

import anthropic

base, model = sys.argv[1:3]
client = anthropic.Anthropic(base_url=base, api_key="none", max_retries=0)
ask = dict(model=model, max_tokens=30, extra_body={"temperature": 0}, messages=[{"role": "user", "content": "What is the capital of France?"}])
PARIS = "The capital of France is Paris."

whole = client.messages.create(**ask)
assert whole.content[0].text == PARIS and whole.stop_reason == "end_turn" and whole.usage.output_tokens == 8, whole

with client.messages.stream(**ask) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == PARIS and final.content[0].text == PARIS and final.stop_reason == "end_turn", (text, final)

stopped = client.messages.create(**{**ask, "stop_sequences": [" Paris"]})
assert (stopped.content[0].text, stopped.stop_reason, stopped.stop_sequence) == ("The capital of France is", "stop_sequence", " Paris"), stopped

schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Berlin"]}}, "required": ["city"], "additionalProperties": False}
tools = [{"name": "get_weather", "description": "The weather of a city.", "input_schema": schema}]
wanted = {**ask, "max_tokens": 80, "tools": tools, "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}}
called = client.messages.create(**wanted)
call = called.content[0]
assert called.stop_reason == "tool_use" and call.name == "get_weather" and call.input["city"] in ("Paris", "Berlin"), called
with client.messages.stream(**wanted) as stream:
    final = stream.get_final_message()
assert final.content[0].input == call.input, final
talk = ask["messages"] + [
    {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Sunny."}]},
]
assert client.messages.create(**{**ask, "tools": tools, "messages": talk, "max_tokens": 8}).content[0].text
try:
    client.messages.create(**{**ask, "model": "nobody"})
    raise SystemExit("an unknown model answered")
except anthropic.NotFoundError as e:
    assert e.body["error"]["type"] == "not_found_error", e.body
print(f"anthropic {anthropic.__version__}: messages, stream, stop sequences, tools, errors")
