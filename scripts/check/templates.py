"""Renders every chat template of the packages in FOLDER (wheels) with transformers, as apply_chat_template does: templates.ts compares.

    python scripts/check/templates.py FOLDER OUT.json
"""
import json
import sys
import zipfile
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

BOS, EOS = "<|bos|>", "<|eos|>"

WEATHER = {
    "name": "get_weather",
    "description": "Says what the weather is like, \"now\" or later.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city, such as Zürich"},
            "days": {"type": "integer", "minimum": 0, "description": "Days from now"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city"],
    },
}
REFUND = {
    "name": "refund",
    "description": "Pays an order back.",
    "parameters": {
        "type": "object",
        "properties": {"orders": {"type": "array", "items": {"type": "string"}}, "note": {"type": "object", "properties": {}}},
        "required": ["orders"],
    },
}


def call(name, arguments, identifier):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


USER = {"role": "user", "content": "Hello, what's <b>new</b>?"}
ANSWER = {"role": "assistant", "content": "Not much.\n\n  Indented, and a tab:\t."}
ASKS = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Zürich", "days": 2, "unit": "celsius"}, "abcdefgh1")]}
SAYS = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefgh1", "content": '{"sky": "blue"}'}

CONVERSATIONS = [
    {"messages": [USER]},
    {"messages": [{"role": "system", "content": "You are terse."}, USER]},
    {"messages": [USER, ANSWER, {"role": "user", "content": "  And now?  "}]},
    {"messages": [{"role": "system", "content": ""}, USER, ANSWER]},
    {"messages": [{"role": "user", "content": "Größe 日本語 🙂 \\n {{ not_a_variable }} {% raw %}"}, ANSWER, {"role": "user", "content": ""}]},
    {"messages": [USER, ANSWER, USER, ANSWER, USER, ANSWER]},
    {"messages": [{"role": "assistant", "content": "I begin."}, USER]},
    {"messages": [USER, USER]},
    {"messages": [USER, {"role": "assistant", "content": "<think>\nSo.\n</think>\n\nDone."}, USER]},
    {"messages": [USER], "tools": [WEATHER]},
    {"messages": [{"role": "system", "content": "Use tools."}, USER], "tools": [WEATHER, REFUND]},
    {"messages": [USER, ASKS, SAYS], "tools": [WEATHER]},
    {"messages": [USER, ASKS, SAYS, ANSWER, USER], "tools": [WEATHER, REFUND]},
    {"messages": [USER, {**ASKS, "tool_calls": [*ASKS["tool_calls"], call("refund", {"orders": ["A-1", "ß"], "note": {}}, "abcdefgh2")]}, SAYS,
                  {**SAYS, "name": "refund", "tool_call_id": "abcdefgh2", "content": "done"}], "tools": [WEATHER, REFUND]},
]


def templates(folder):
    seen = {}
    for wheel in sorted(Path(folder).glob("*.whl")):
        package = wheel.name.split("-")[0]
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".jinja"):
                    text = archive.read(name).decode("utf-8")
                    seen.setdefault(text, f"{package}/{Path(name).stem}")
    return {name: text for text, name in seen.items()}


def render(template, conversation, prompt):
    tools = conversation.get("tools")
    schemas = None if tools is None else [{"type": "function", "function": tool} for tool in tools]
    try:
        # Through JSON, so that no template changes a message for the next one.
        messages = json.loads(json.dumps(conversation["messages"]))
        return {"text": template.render(messages=messages, tools=schemas, documents=None, add_generation_prompt=prompt, bos_token=BOS, eos_token=EOS)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main(folder, out):
    sources = templates(folder)
    renderings = {}
    for name, source in sources.items():
        compiled = _compile_jinja_template(source)
        renderings[name] = [[render(compiled, conversation, prompt) for prompt in (False, True)] for conversation in CONVERSATIONS]
    Path(out).write_text(json.dumps({"bos": BOS, "eos": EOS, "conversations": CONVERSATIONS, "templates": sources, "renderings": renderings}))


main(*sys.argv[1:])
