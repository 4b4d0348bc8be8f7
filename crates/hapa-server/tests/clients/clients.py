"""OpenAI's and Anthropic's own clients against a server whose address is the only argument."""

import json
import sys
from enum import Enum

import anthropic
import openai
from pydantic import BaseModel

base = sys.argv[1]
client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model
hello = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]


def refused(error, call):
    try:
        call()
    except error as raised:
        return raised
    raise AssertionError(f"no {error.__name__}")


# Chat: whole, streamed, several, with log-probabilities.
whole = client.chat.completions.create(model=model, messages=hello, max_tokens=8, seed=1)
text = whole.choices[0].message.content
assert whole.usage.completion_tokens == 8 and whole.choices[0].finish_reason == "length", whole
streamed, usage, reason = "", None, None
options = {"include_usage": True}
for chunk in client.chat.completions.create(model=model, messages=hello, max_tokens=8, stream=True, stream_options=options):
    if chunk.choices:
        streamed += chunk.choices[0].delta.content or ""
        reason = chunk.choices[0].finish_reason or reason
    usage = chunk.usage or usage
assert (streamed, reason, usage.completion_tokens) == (text, "length", 8), (streamed, text)
several = client.chat.completions.create(model=model, messages=hello, max_tokens=8, n=3, temperature=1.2, seed=5)
assert [choice.index for choice in several.choices] == [0, 1, 2]
assert len({choice.message.content for choice in several.choices}) > 1
scored = client.chat.completions.create(model=model, messages=hello, max_tokens=4, logprobs=True, top_logprobs=2)
tokens = scored.choices[0].logprobs.content
assert len(tokens) == 4 and all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)
middle = text[len(text) // 2 :]
stopped = client.chat.completions.create(model=model, messages=hello, max_tokens=8, stop=[middle])
assert (stopped.choices[0].finish_reason, stopped.choices[0].message.content) == ("stop", text[: len(text) // 2])


# A form, by the client's own helper: it sends the schema and reads the answer.
class Size(str, Enum):
    small = "small"
    large = "large"


class Parcel(BaseModel):
    size: Size
    fragile: bool


parsed = client.chat.completions.parse(model=model, messages=hello, max_tokens=300, response_format=Parcel)
assert isinstance(parsed.choices[0].message.parsed, Parcel)
with client.chat.completions.stream(model=model, messages=hello, max_tokens=300, response_format=Parcel) as stream:
    final = stream.get_final_completion()
assert final.choices[0].message.parsed == parsed.choices[0].message.parsed

# Tools are shown to the model; a random one calls none.
tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
called = client.chat.completions.create(model=model, messages=hello, max_tokens=4, tools=[tool])
bare = client.chat.completions.create(model=model, messages=hello, max_tokens=4, tools=[tool], tool_choice="none")
assert called.usage.prompt_tokens > bare.usage.prompt_tokens

# A call that must be made has no other end than its own; cut by max_tokens, it is a call as far as it came.
long = {"type": "object", "properties": {"text": {"type": "string", "minLength": 2000}}, "required": ["text"]}
tool = {"type": "function", "function": {"name": "write", "parameters": long}}
demanded = {"messages": hello, "max_tokens": 350, "tools": [tool], "tool_choice": "required", "stop": ['"']}
cut = client.chat.completions.create(model=model, **demanded).choices[0]
assert (cut.finish_reason, cut.message.content, cut.message.refusal) == ("length", None, None), cut
call = cut.message.tool_calls[0].function
assert call.name == "write" and call.arguments.startswith("{"), cut
streamed = ""
for chunk in client.chat.completions.create(model=model, stream=True, **demanded):
    for piece in chunk.choices[0].delta.tool_calls or []:
        streamed += piece.function.arguments
assert streamed == call.arguments, (streamed, call)

# An answer goes on with what was begun, and has the room that there is when nobody says how much.
begun = [*hello, {"role": "assistant", "content": "def add("}]
counted = client.chat.completions.create(model=model, messages=begun, max_tokens=1).usage.prompt_tokens
assert whole.usage.prompt_tokens < counted < whole.usage.prompt_tokens + 9, counted
unbounded = client.chat.completions.create(model=model, messages=hello, temperature=1.5, seed=3)
assert unbounded.choices[0].finish_reason == "stop" or unbounded.usage.total_tokens == 1024, unbounded.usage

# Completions, with text on both sides.
between = client.completions.create(model=model, prompt="def f(x):\n    ", suffix="\n", max_tokens=6, logprobs=1)
assert isinstance(between.choices[0].text, str) and between.choices[0].logprobs.tokens
pieces = client.completions.create(model=model, prompt=["a", "b"], max_tokens=3, stream=True)
assert {chunk.choices[0].index for chunk in pieces if chunk.choices} == {0, 1}
tokens = client.completions.create(model=model, prompt=[[1, 2], [3]], max_tokens=3)
assert (len(tokens.choices), tokens.usage.prompt_tokens) == (2, 3), tokens.usage

# Errors are the client's own.
missing = refused(openai.NotFoundError, lambda: client.chat.completions.create(model="other", messages=hello))
assert missing.code == "model_not_found", missing
bad = refused(openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=hello, temperature=9))
assert bad.param == "temperature", bad

# Anthropic.
claude = anthropic.Anthropic(base_url=base, api_key="none", max_retries=0)
turns = [{"role": "user", "content": "hi"}]
message = claude.messages.create(model=model, max_tokens=8, system="Be brief.", messages=turns)
assert message.stop_reason == "max_tokens" and message.usage.output_tokens == 8, message
with claude.messages.stream(model=model, max_tokens=8, system="Be brief.", messages=turns) as stream:
    written = "".join(stream.text_stream)
    final = stream.get_final_message()
assert written == message.content[0].text == final.content[0].text
assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 8), final
middle = written[len(written) // 2 :]
ended = claude.messages.create(model=model, max_tokens=8, system="Be brief.", messages=turns, stop_sequences=[middle])
assert (ended.stop_reason, ended.stop_sequence) == ("stop_sequence", middle), ended
count = claude.messages.count_tokens(model=model, system="Be brief.", messages=turns)
assert count.input_tokens == message.usage.input_tokens + message.usage.cache_read_input_tokens
assert claude.models.list().data[0].id == model == claude.models.retrieve(model).display_name
assert message._request_id, "the header that the client reads"
form = {"type": "object", "properties": {"fragile": {"type": "boolean"}}, "required": ["fragile"], "additionalProperties": False}
form = {"format": {"type": "json_schema", "schema": form}}
formed = claude.messages.create(model=model, max_tokens=200, messages=turns, output_config=form)
assert json.loads(formed.content[0].text).keys() == {"fragile"}, formed
tools = [{"name": "write", "input_schema": long}]
with claude.messages.stream(model=model, max_tokens=350, messages=turns, tools=tools, tool_choice={"type": "any"}) as stream:
    final = stream.get_final_message()
assert (final.stop_reason, final.content[0].type, final.content[0].name) == ("max_tokens", "tool_use", "write"), final
begun = claude.messages.count_tokens(model=model, system="Be brief.", messages=[*turns, {"role": "assistant", "content": "def"}])
assert count.input_tokens < begun.input_tokens < count.input_tokens + 4, begun
refused(anthropic.NotFoundError, lambda: claude.messages.create(model="other", max_tokens=1, messages=turns))
bad = refused(anthropic.BadRequestError, lambda: claude.messages.create(model=model, max_tokens=1, messages=[]))
assert bad.body["error"]["type"] == "invalid_request_error", bad.body

print(json.dumps({"openai": openai.__version__, "anthropic": anthropic.__version__}))
