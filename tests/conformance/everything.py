"""The server that the conformance suite of MCP asks for, without an SDK: `everything.py [--era old|new|both]`.

What each tool, resource and prompt does is said in the suite's scenarios (npm @modelcontextprotocol/conformance).
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WAV = base64.b64encode(b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0@\x1f\0\0\1\0\x08\0data\0\0\0\0").decode()
NEW = "2026-07-28"
OLD = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
INFO = {"name": "everything", "version": "1.0.0"}
CAPABILITIES = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "completions": {},
    "logging": {},
}
META = "io.modelcontextprotocol/"
KEY = os.urandom(32)
CACHED = (
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "server/discover",
)


class McpError(Exception):
    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, **({"data": data} if data is not None else {})}


class NeedInput(Exception):
    def __init__(self, requests: dict[str, Any], state: str | None = None) -> None:
        self.result = {"resultType": "input_required", "inputRequests": requests}
        if state is not None:
            self.result["requestState"] = state


def schema(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required) or list(properties)}


def elicit(message: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": schema(properties, *required)},
    }


def sample(text: str, tokens: int = 100) -> dict[str, Any]:
    message = {"role": "user", "content": {"type": "text", "text": text}}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": tokens}}


ROOTS = {"method": "roots/list", "params": {}}
STRING, BOOLEAN = {"type": "string"}, {"type": "boolean"}


def seal(facts: dict[str, Any]) -> str:
    body = base64.urlsafe_b64encode(json.dumps(facts).encode()).decode()
    return f"{body}.{hmac.new(KEY, body.encode(), hashlib.sha256).hexdigest()}"


def unseal(state: Any) -> dict[str, Any]:
    body, _, mark = str(state).partition(".")
    if not hmac.compare_digest(hmac.new(KEY, body.encode(), hashlib.sha256).hexdigest(), mark):
        raise McpError(-32602, "requestState was tampered with")
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body))
    return found


def text(words: str, *, is_error: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}], **({"isError": True} if is_error else {})}


@dataclass
class Call:
    """One request: what came with it, and the ways back to the client."""

    server: "Server"
    id: Any
    params: dict[str, Any]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def is_new(self) -> bool:
        return f"{META}protocolVersion" in self.meta

    @property
    def capabilities(self) -> dict[str, Any]:
        return self.meta.get(f"{META}clientCapabilities", {}) if self.is_new else self.server.client

    @property
    def arguments(self) -> dict[str, Any]:
        return self.params.get("arguments") or {}

    async def log(self, level: str, data: Any) -> None:
        if not self.is_new or f"{META}logLevel" in self.meta:
            self.server.notify("notifications/message", {"level": level, "logger": "everything", "data": data})

    async def progress(self, done: float, total: float) -> None:
        if "progressToken" in self.meta:
            facts = {"progressToken": self.meta["progressToken"], "progress": done, "total": total}
            self.server.notify("notifications/progress", facts)

    async def ask(self, key: str, request: dict[str, Any]) -> dict[str, Any]:
        """The client's answer; in the modern era the call is made again with it."""
        return (await self.ask_all({key: request}))[key]

    async def ask_all(self, requests: dict[str, Any], state: str | None = None) -> dict[str, Any]:
        if not self.is_new:
            return {key: await self.server.ask(each["method"], each["params"]) for key, each in requests.items()}
        answers = self.params.get("inputResponses")
        answers = answers if isinstance(answers, dict) else {}
        missing = {key: each for key, each in requests.items() if not isinstance(answers.get(key), dict)}
        if missing:
            raise NeedInput(missing, state)
        return {key: answers[key] for key in requests}


def content_of(answer: dict[str, Any]) -> str:
    content = answer.get("content")
    content = content[0] if isinstance(content, list) and content else content
    return str(content.get("text")) if isinstance(content, dict) else json.dumps(answer)


def require(call: Call, capability: str) -> None:
    if capability not in call.capabilities:
        raise McpError(
            -32021, f"The client lacks the capability {capability}", {"requiredCapabilities": {capability: {}}}
        )


async def simple_text(call: Call) -> dict[str, Any]:
    return text("This is a simple text response for testing.")


async def image(call: Call) -> dict[str, Any]:
    return {"content": [{"type": "image", "data": PNG, "mimeType": "image/png"}]}


async def audio(call: Call) -> dict[str, Any]:
    return {"content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]}


async def embedded(call: Call) -> dict[str, Any]:
    words = "This is an embedded resource content."
    resource = {"uri": "test://embedded-resource", "mimeType": "text/plain", "text": words}
    return {"content": [{"type": "resource", "resource": resource}]}


async def multiple(call: Call) -> dict[str, Any]:
    facts = json.dumps({"test": "data", "value": 123})
    resource = {"uri": "test://mixed-content-resource", "mimeType": "application/json", "text": facts}
    return {
        "content": [
            {"type": "text", "text": "Multiple content types test:"},
            {"type": "image", "data": PNG, "mimeType": "image/png"},
            {"type": "resource", "resource": resource},
        ]
    }


async def logging_tool(call: Call) -> dict[str, Any]:
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await call.log("info", words)
        await asyncio.sleep(0.05)  # the scenario wants time between them
    return text("logged")


async def progress_tool(call: Call) -> dict[str, Any]:
    for done in (0, 50, 100):
        await call.progress(done, 100)
        await asyncio.sleep(0.05)  # the scenario wants time between them
    return text("done")


async def failing(call: Call) -> dict[str, Any]:
    return text("This tool intentionally returns an error for testing", is_error=True)


async def sampling(call: Call) -> dict[str, Any]:
    if "sampling" not in call.capabilities:
        return text("The client cannot sample.", is_error=True)
    answer = await call.ask("sample", sample(str(call.arguments.get("prompt"))))
    return text(f"LLM response: {content_of(answer)}")


async def elicitation(call: Call) -> dict[str, Any]:
    if "elicitation" not in call.capabilities:
        return text("The client cannot be asked.", is_error=True)
    fields = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    answer = await call.ask("user", elicit(str(call.arguments.get("message")), fields))
    return text(f"User response: action={answer.get('action')}, content={json.dumps(answer.get('content'))}")


async def defaults(call: Call) -> dict[str, Any]:
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    answer = await call.ask("facts", elicit("Tell some facts", fields, "name"))
    return text(f"Elicitation completed: action={answer.get('action')}, content={json.dumps(answer.get('content'))}")


async def enums(call: Call) -> dict[str, Any]:
    options = ["option1", "option2", "option3"]
    titles = ("First", "Second", "Third")
    titled = [{"const": f"value{n}", "title": f"{name} Option"} for n, name in enumerate(titles, 1)]
    many = [{"const": f"value{n}", "title": f"{name} Choice"} for n, name in enumerate(titles, 1)]
    legacy = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}
    fields = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", **legacy},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": many}},
    }
    answer = await call.ask("choices", elicit("Choose", fields, "untitledSingle"))
    return text(f"Elicitation completed: action={answer.get('action')}, content={json.dumps(answer.get('content'))}")


async def missing_capability(call: Call) -> dict[str, Any]:
    require(call, "sampling")
    return text("The client can sample.")


async def changes(call: Call) -> dict[str, Any]:
    kind = "tools" if call.params["name"] == "test_trigger_tool_change" else "prompts"
    call.server.changed(kind)
    return text("changed")


async def streaming_elicitation(call: Call) -> dict[str, Any]:
    await call.progress(0, 1)
    return await need_name(call)


async def echo_arguments(call: Call) -> dict[str, Any]:
    return text(json.dumps(call.arguments))


async def need_name(call: Call) -> dict[str, Any]:
    answer = await call.ask("user_name", elicit("What is your name?", {"name": STRING}))
    name = (answer.get("content") or {}).get("name") if isinstance(answer.get("content"), dict) else None
    if answer.get("action") not in ("accept", "decline", "cancel"):
        raise NeedInput({"user_name": elicit("What is your name?", {"name": STRING})})
    return text(f"Hello, {name}!")


async def need_sample(call: Call) -> dict[str, Any]:
    answer = await call.ask("capital_question", sample("What is the capital of France?"))
    return text(content_of(answer))


async def need_roots(call: Call) -> dict[str, Any]:
    answer = await call.ask("client_roots", ROOTS)
    return text(f"Roots: {json.dumps(answer.get('roots'))}")


async def need_state(call: Call) -> dict[str, Any]:
    if "requestState" in call.params:
        unseal(call.params["requestState"])
    await call.ask_all({"confirm": elicit("Please confirm", {"ok": BOOLEAN})}, seal({"step": 1}))
    return text("state-ok")


async def need_several(call: Call) -> dict[str, Any]:
    if "requestState" in call.params:
        unseal(call.params["requestState"])
    wanted = {
        "user_name": elicit("What is your name?", {"name": STRING}),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    answers = await call.ask_all(wanted, seal({"step": 1}))
    return text(json.dumps(answers))


async def need_rounds(call: Call) -> dict[str, Any]:
    step = unseal(call.params["requestState"])["step"] if "requestState" in call.params else 0
    if step == 0:
        raise NeedInput({"step1": elicit("Step 1: What is your name?", {"name": STRING})}, seal({"step": 1}))
    if step == 1:
        await call.ask_all({"step1": elicit("Step 1: What is your name?", {"name": STRING})}, seal({"step": 1}))
        color = elicit("Step 2: What is your favorite color?", {"color": STRING})
        raise NeedInput({"step2": color}, seal({"step": 2}))
    await call.ask_all({"step2": elicit("Step 2: What is your favorite color?", {"color": STRING})}, seal({"step": 2}))
    return text("All steps are done.")


async def need_allowed(call: Call) -> dict[str, Any]:
    wanted = {}
    if "elicitation" in call.capabilities:
        wanted["user_name"] = elicit("What is your name?", {"name": STRING})
    if "sampling" in call.capabilities:
        wanted["greeting"] = sample("Generate a greeting", 50)
    if "roots" in call.capabilities:
        wanted["client_roots"] = ROOTS
    return text(json.dumps(await call.ask_all(wanted)))


RICH = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": STRING, "city": STRING},
        }
    },
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}}
HEADERS = schema({"region": {"type": "string", "x-mcp-header": "Region"}, "query": STRING}, "region")
TOOLS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "test_simple_text": (simple_text, NOTHING, "Gives text"),
    "test_image_content": (image, NOTHING, "Gives a picture"),
    "test_audio_content": (audio, NOTHING, "Gives sound"),
    "test_embedded_resource": (embedded, NOTHING, "Gives a resource"),
    "test_multiple_content_types": (multiple, NOTHING, "Gives several kinds of content"),
    "test_tool_with_logging": (logging_tool, NOTHING, "Logs while it runs"),
    "test_tool_with_progress": (progress_tool, NOTHING, "Tells how far it is"),
    "test_error_handling": (failing, NOTHING, "Always fails"),
    "test_sampling": (sampling, schema({"prompt": STRING}), "Asks the client's model"),
    "test_elicitation": (elicitation, schema({"message": STRING}), "Asks the user"),
    "test_elicitation_sep1034_defaults": (defaults, NOTHING, "Asks the user, with defaults"),
    "test_elicitation_sep1330_enums": (enums, NOTHING, "Asks the user to choose"),
    "test_x_mcp_header": (echo_arguments, HEADERS, "Has an argument that is repeated in a header"),
    "test_missing_capability": (missing_capability, NOTHING, "Needs a client that can sample"),
    "test_streaming_elicitation": (streaming_elicitation, NOTHING, "Asks after it has begun to tell"),
    "test_logging_tool": (logging_tool, NOTHING, "Logs while it runs"),
    "test_trigger_tool_change": (changes, NOTHING, "Says that tools have changed"),
    "test_trigger_prompt_change": (changes, NOTHING, "Says that prompts have changed"),
    "json_schema_2020_12_tool": (echo_arguments, RICH, "Tool with JSON Schema 2020-12 features"),
    "test_input_required_result_elicitation": (need_name, NOTHING, "Needs a name"),
    "test_input_required_result_sampling": (need_sample, NOTHING, "Needs a sample"),
    "test_input_required_result_list_roots": (need_roots, NOTHING, "Needs roots"),
    "test_input_required_result_request_state": (need_state, NOTHING, "Keeps state at the client"),
    "test_input_required_result_multiple_inputs": (need_several, NOTHING, "Needs several answers"),
    "test_input_required_result_multi_round": (need_rounds, NOTHING, "Needs several rounds"),
    "test_input_required_result_tampered_state": (need_state, NOTHING, "Notices tampering"),
    "test_input_required_result_capabilities": (need_allowed, NOTHING, "Asks only what the client can answer"),
}
ARGUMENTS = [{"name": name, "description": "an argument", "required": True} for name in ("arg1", "arg2")]
PROMPTS: dict[str, list[dict[str, Any]]] = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ARGUMENTS,
    "test_prompt_with_embedded_resource": [{"name": "resourceUri", "description": "a URI", "required": True}],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
}
RESOURCES = {
    "test://static-text": ("text/plain", {"text": "This is the content of the static text resource."}),
    "test://static-binary": ("image/png", {"blob": PNG}),
    "test://watched-resource": ("text/plain", {"text": "Watched resource content"}),
}


def say(*contents: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


async def get_prompt(call: Call) -> dict[str, Any]:
    given = call.params.get("arguments") or {}
    match call.params.get("name"):
        case "test_simple_prompt":
            return say({"type": "text", "text": "This is a simple prompt for testing."})
        case "test_prompt_with_arguments":
            words = f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'"
            return say({"type": "text", "text": words})
        case "test_prompt_with_embedded_resource":
            resource = {"uri": given.get("resourceUri"), "mimeType": "text/plain"}
            resource["text"] = "Embedded resource content for testing."
            words = "Please process the embedded resource above."
            return say({"type": "resource", "resource": resource}, {"type": "text", "text": words})
        case "test_prompt_with_image":
            picture = {"type": "image", "data": PNG, "mimeType": "image/png"}
            return say(picture, {"type": "text", "text": "Please analyze the image above."})
        case "test_input_required_result_prompt":
            wanted = elicit("What context should the prompt use?", {"context": STRING})
            answer = await call.ask("user_context", wanted)
            return say({"type": "text", "text": f"Use this context: {json.dumps(answer.get('content'))}"})
    raise McpError(-32602, f"Unknown prompt: {call.params.get('name')}")


async def read_resource(call: Call) -> dict[str, Any]:
    uri = str(call.params.get("uri"))
    if uri in RESOURCES:
        kind, content = RESOURCES[uri]
        return {"contents": [{"uri": uri, "mimeType": kind, **content}]}
    if uri.startswith("test://template/") and uri.endswith("/data"):
        number = uri.removeprefix("test://template/").removesuffix("/data")
        facts = {"id": number, "templateTest": True, "data": f"Data for ID: {number}"}
        return {"contents": [{"uri": uri, "mimeType": "application/json", "text": json.dumps(facts)}]}
    raise McpError(-32602 if call.is_new else -32002, f"Resource not found: {uri}", {"uri": uri})


class Server:
    """Speaks over stdin and stdout."""

    def __init__(self, era: str) -> None:
        self.era = era
        self.client: dict[str, Any] = {}
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._running: dict[Any, asyncio.Task[None]] = {}
        self._listens: dict[Any, dict[str, Any]] = {}

    async def run(self) -> None:
        reader = asyncio.StreamReader(limit=1 << 24)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            if line.strip():
                self._take(json.loads(line))

    def notify(self, method: str, params: dict[str, Any]) -> None:
        self._send({"method": method, "params": params})

    def changed(self, kind: str) -> None:
        method = f"notifications/{kind}/list_changed"
        if self.client is not None and self.era != "new":
            self.notify(method, {})
        for number, wanted in self._listens.items():
            if wanted.get(f"{kind}ListChanged"):
                self.notify(method, {"_meta": {f"{META}subscriptionId": number}})

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = f"s{len(self._asked)}-{os.urandom(4).hex()}"
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send({"id": number, "method": method, "params": params})
        return await future

    def _send(self, message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    def _take(self, message: dict[str, Any]) -> None:
        number, method = message.get("id"), message.get("method")
        if method is None:
            future = self._asked.pop(str(number), None)
            if future is not None and not future.done():
                if "result" in message:
                    future.set_result(message["result"])
                else:
                    future.set_exception(McpError(-32603, f"The client answered: {message['error']['message']}"))
        elif method == "notifications/cancelled":
            task = self._running.get(message["params"].get("requestId"))
            if task is not None:
                task.cancel()
        elif number is not None:
            task = asyncio.get_running_loop().create_task(self._answer(number, method, message.get("params") or {}))
            self._running[number] = task
            task.add_done_callback(lambda _: self._running.pop(number, None))

    async def _answer(self, number: Any, method: str, params: dict[str, Any]) -> None:
        call = Call(self, number, params, params.get("_meta") or {})
        try:
            result = await self._serve(call, method)
        except NeedInput as need:
            result = need.result
        except McpError as err:
            self._send({"id": number, "error": err.error})
            return
        if call.is_new:
            result = {
                "resultType": "complete",
                **result,
                "_meta": {**result.get("_meta", {}), f"{META}serverInfo": INFO},
            }
            if method in CACHED:
                result |= {"ttlMs": 1000, "cacheScope": "private"}
        self._send({"id": number, "result": result})

    async def _serve(self, call: Call, method: str) -> dict[str, Any]:
        if self.era == "old" and (call.is_new or method == "server/discover"):
            raise McpError(-32601, f"Method not found: {method}")
        if not call.is_new and self.era == "new":
            raise McpError(-32601, f"Method not found: {method}")
        params = call.params
        match method:
            case "initialize":
                self.client = params.get("capabilities") or {}
                version = params.get("protocolVersion")
                return {
                    "protocolVersion": version if version in OLD else OLD[0],
                    "capabilities": CAPABILITIES,
                    "serverInfo": INFO,
                }
            case "server/discover":
                return {"supportedVersions": [NEW], "capabilities": CAPABILITIES}
            case "subscriptions/listen":
                return await self._listen(call)
            case "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" if not call.is_new:
                return {}
            case "tools/list":
                return {
                    "tools": [
                        {"name": name, "description": words, "inputSchema": shape}
                        for name, (_, shape, words) in TOOLS.items()
                    ]
                }
            case "tools/call":
                if params.get("name") not in TOOLS:
                    raise McpError(-32602, f"Unknown tool: {params.get('name')}")
                found: dict[str, Any] = await TOOLS[params["name"]][0](call)
                return found
            case "prompts/list":
                return {
                    "prompts": [
                        {"name": name, "description": "A prompt", "arguments": arguments}
                        for name, arguments in PROMPTS.items()
                    ]
                }
            case "prompts/get":
                return await get_prompt(call)
            case "resources/list":
                return {
                    "resources": [
                        {"uri": uri, "name": uri.removeprefix("test://"), "description": "A resource", "mimeType": kind}
                        for uri, (kind, _) in RESOURCES.items()
                    ]
                }
            case "resources/templates/list":
                template = {"uriTemplate": "test://template/{id}/data", "name": "template", "description": "By id"}
                return {"resourceTemplates": [template | {"mimeType": "application/json"}]}
            case "resources/read":
                return await read_resource(call)
            case "completion/complete":
                values = [word for word in ("paris", "park", "party") if word.startswith(params["argument"]["value"])]
                return {"completion": {"values": values, "total": len(values), "hasMore": False}}
        raise McpError(-32601, f"Method not found: {method}")

    async def _listen(self, call: Call) -> dict[str, Any]:
        wanted = call.params.get("notifications") or {}
        tag = {"_meta": {f"{META}subscriptionId": call.id}}
        self.notify("notifications/subscriptions/acknowledged", {"notifications": wanted, **tag})
        self._listens[call.id] = wanted
        try:
            await asyncio.Event().wait()
        finally:
            del self._listens[call.id]
        return tag


if __name__ == "__main__":
    asyncio.run(Server(sys.argv[sys.argv.index("--era") + 1] if "--era" in sys.argv else "both").run())
