"""An MCP server without the SDK, quick to start: `raw_server.py [--modern]`. Says what was said to it."""

import json
import os
import subprocess
import sys
import time

MODERN = "--modern" in sys.argv
LIST = {"listChanged": True}
CAPABILITIES = {"tools": LIST, "logging": {}, "resources": {"subscribe": True, **LIST}, "odd": {"kept": [1.50]}}
state: dict = {"hello": None, "level": None, "asked": {}, "running": {}, "cancelled": [], "listens": []}
ODD = {
    "exact": '{"jsonrpc":"2.0","id":ID,"result":{ "resultType":"complete", "pi": 3.10, "big":12345678901234567890123}}',
    "tail": '{"result":{"resultType":"complete","id":1},"jsonrpc":"2.0","id":ID}',
    "broken": '{"jsonrpc":"2.0","id":ID,"result":{"a":1},"b":}',
}
numbers = iter(range(1, 10**9))


def send(message: dict) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def notify(method: str, params: dict) -> None:
    send({"method": method, "params": params})


def result(request_id, value: dict) -> None:
    if MODERN:
        value = {"resultType": "complete", **value}
    send({"id": request_id, "result": value})


def say(request_id, value) -> None:
    result(request_id, {"content": [{"type": "text", "text": json.dumps(value)}]})


def ask(request_id, method: str, params: dict) -> None:
    number = f"s-{next(numbers)}"
    state["asked"][number] = request_id
    send({"id": number, "method": method, "params": params})


def call(request_id, params: dict) -> None:
    name, arguments, meta = params["name"], params.get("arguments") or {}, params.get("_meta") or {}
    match name:
        case "ok":
            say(request_id, arguments)
        case "exact" | "tail" | "broken":
            print(ODD[name].replace("ID", json.dumps(request_id)), flush=True)
        case "pid":
            say(request_id, os.getpid())
        case "params":
            say(request_id, params)
        case "state":
            say(request_id, state)
        case "refuse":
            send({"id": request_id, "error": {"code": -32099, "message": "no", "data": {"why": [1.0]}}})
        case "progress":
            for step in range(3):
                notify("notifications/progress", {"progressToken": meta.get("progressToken"), "progress": step})
            say(request_id, meta)
        case "log":
            for level in ("debug", "info", "error"):
                notify("notifications/message", {"level": level, "data": level, "_meta": {"x": 1}})
            say(request_id, "logged")
        case "hang":
            state["running"][str(request_id)] = name
            if "progressToken" in meta:
                notify("notifications/progress", {"progressToken": meta["progressToken"], "progress": 0})
        case "elicit":
            ask(
                request_id,
                "elicitation/create",
                {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}},
            )
        case "sample":
            ask(request_id, "sampling/createMessage", {"messages": [], "maxTokens": 1})
        case "roots":
            ask(request_id, "roots/list", {})
        case "ping":
            ask(request_id, "ping", {})
        case "take_back":
            ask(
                request_id,
                "elicitation/create",
                {"message": "never mind", "requestedSchema": {"type": "object", "properties": {}}},
            )
            number = next(iter(state["asked"]))
            del state["asked"][number]
            notify("notifications/cancelled", {"requestId": number})
            say(request_id, "taken back")
        case "change":
            notify("notifications/tools/list_changed", {})
            notify("notifications/resources/updated", {"uri": arguments.get("uri", "x://1")})
            for number in state["listens"]:
                tag = {"_meta": {"io.modelcontextprotocol/subscriptionId": number, "kept": 1}}
                notify("notifications/tools/list_changed", tag)
            say(request_id, "changed")
        case "end_listens":
            for number in state["listens"]:
                result(number, {"_meta": {"io.modelcontextprotocol/subscriptionId": number}})
            say(request_id, "ended")
        case "crash":
            print("the disk is full", file=sys.stderr, flush=True)
            os._exit(3)
        case "leave":
            # One in the group of the server, one in a session of its own.
            for own in (False, True):
                subprocess.Popen(["sleep", "3600"], stdin=subprocess.DEVNULL, start_new_session=own)
            say(request_id, "left")
        case "eat":
            state["eaten"] = bytearray(os.urandom(1024)) * (1024 * arguments["mb"])
            say(request_id, "full")
        case "spin":
            ends = time.process_time() + arguments["seconds"]
            while time.process_time() < ends:
                pass
            say(request_id, "dizzy")
        case _:
            send({"id": request_id, "error": {"code": -32602, "message": f"Unknown tool: {name}"}})


def handle(message: dict) -> None:
    method, request_id, params = message.get("method"), message.get("id"), message.get("params") or {}
    if method is None:
        waiting = state["asked"].pop(request_id, None)
        if waiting is not None:
            say(waiting, {key: message[key] for key in ("result", "error") if key in message})
    elif method == "tools/call":
        call(request_id, params)
    elif method == "tools/list":
        result(request_id, {"tools": [{"name": "ok", "inputSchema": {"type": "object"}}]})
    elif method == "initialize" and not MODERN:
        state["hello"] = params
        info = {"name": "raw", "version": "1"}
        result(
            request_id,
            {
                "protocolVersion": "2025-11-25",
                "capabilities": CAPABILITIES,
                "serverInfo": info,
                "instructions": "Be brief.",
            },
        )
    elif method == "server/discover" and MODERN:
        own = {"supportedVersions": ["2026-07-28"], "capabilities": CAPABILITIES, "ttlMs": 7, "cacheScope": "public"}
        result(request_id, own)
    elif method == "subscriptions/listen" and MODERN:
        state["listens"].append(request_id)
        tag = {"io.modelcontextprotocol/subscriptionId": request_id}
        honored = {"notifications": params["notifications"], "_meta": tag}
        notify("notifications/subscriptions/acknowledged", honored)
    elif method == "logging/setLevel":
        state["level"] = params["level"]
        result(request_id, {})
    elif method in ("resources/subscribe", "resources/unsubscribe"):
        result(request_id, {})
    elif method == "notifications/cancelled":
        state["cancelled"].append(params["requestId"])
        if params["requestId"] in state["listens"]:
            state["listens"].remove(params["requestId"])
    elif request_id is not None:
        send({"id": request_id, "error": {"code": -32601, "message": f"Method not found: {method}"}})


for line in sys.stdin:
    handle(json.loads(line))
