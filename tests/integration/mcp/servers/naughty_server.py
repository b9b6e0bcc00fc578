"""An MCP server on plain Python that misbehaves on request.

`naughty_server.py [MODE]`: MODE is how it starts; the tool's name is what goes wrong in a call. It must not need the
SDK: it is started very often.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

out_lock = threading.Lock()


def send_line(line):
    with out_lock:
        sys.stdout.buffer.write(line if isinstance(line, bytes) else line.encode())
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()


def send(**message):
    send_line(json.dumps({"jsonrpc": "2.0", **message}))


def result_of(text, **more):
    return {"content": [{"type": "text", "text": str(text)}], **more}


held = []
seen = []


def call(request_id, name, arguments):
    match name:
        case "ok":
            send(id=request_id, result=result_of(f"ok {arguments.get('n', '')}"))
        case "pid":
            send(id=request_id, result=result_of(os.getpid()))
        case "hang":  # never answered
            send(method="notifications/progress", params={"progressToken": request_id, "progress": 0.5})
        case "crash":
            print("about to crash: disk on fire", file=sys.stderr, flush=True)
            os._exit(arguments.get("code", 3))
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "non_json":
            send_line("Hello, I am a print statement!")
            send_line("{not json either")
            send_line("[1, 2, 3]")
            send_line(b"\xff\xfe binary \x00")
            send(id=request_id, result=result_of("still fine"))
        case "bad_answer":
            send(id=request_id, result="not an object")
        case "bad_shape":
            send(id=request_id, result={"content": "not a list"})
        case "nan":
            send(id=request_id, result={"content": [], "structuredContent": {"x": float("nan")}})
        case "oversize":
            send(id=request_id, result=result_of("x" * arguments["size"]))
        case "oversize_id_last":
            result = result_of("y" * arguments["size"])
            send_line(json.dumps({"jsonrpc": "2.0", "result": result, "id": request_id}))
        case "oversize_unknown":
            send_line("z" * arguments["size"])
            send(id=request_id, result=result_of("after the flood"))
        case "unknown_ids":
            send(id=999999, result={})
            send(id="nobody", result={})
            send(id=None, error={"code": -32600, "message": "who knows"})
            send(id=request_id, result=result_of("mine"))
        case "stderr_flood":
            line = "e" * 1000 + "\n"
            for _ in range(arguments["lines"]):
                sys.stderr.write(line)
            sys.stderr.write("w" * 3_000_000)
            sys.stderr.flush()
            send(id=request_id, result=result_of("flooded"))
        case "string_id":
            send(id=str(request_id), result={"content": []})
        case "other_content":
            content = [{"type": "hologram", "beam": 12345678901234567890, "_meta": {"a": 1}}]
            send(id=request_id, result={"content": content, "unknownField": True})
        case "code":
            send(id=request_id, error={"code": arguments["code"], "message": "so be it"})
        case "slow":
            send(method="notifications/progress", params={"progressToken": request_id, "progress": 0.5})
            time.sleep(0.5)  # the work that its progress is about
            send(id=request_id, result=result_of("at last"))
        case "ask":
            send(
                id="q1",
                method="elicitation/create",
                params={"message": "?", "requestedSchema": {"type": "object", "properties": {}}},
            )
            held.append(request_id)
        case "seen":
            send(id=request_id, result=result_of(json.dumps(seen)))
        case "children":
            held_open = subprocess.Popen(
                ["sleep", "600"],  # longer than any test
                start_new_session=False,
            )
            send(id=request_id, result=result_of(held_open.pid))
        case "deaf":
            send(id=request_id, result=result_of("bye"))
            threading.Event().wait()  # reads nothing any more
        case "mute":
            send(id=request_id, result=result_of("bye"))
            os.close(1)
            threading.Event().wait()  # runs, with stdout closed
        case _:
            send(id=request_id, error={"code": -32602, "message": "Invalid request parameters"})


def serve(mode):
    is_silent_on_unknown = mode == "silent"
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if mode == "strict" and not seen and message["method"] != "initialize":
            print("expected initialize", file=sys.stderr)
            sys.exit(1)
        method, request_id = message.get("method"), message.get("id")
        if method is None:
            if message.get("id") == "q1" and held:
                send(id=held.pop(), result=result_of(json.dumps(message.get("error", {}).get("code"))))
            continue
        if request_id is None or method != "tools/call":
            seen.append(method)
        if method == "initialize":
            send(
                id=request_id,
                result={
                    "protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": {"tools": {}, "x-vendor": {"big": 2**70}},
                    "serverInfo": {"name": "naughty", "version": "0"},
                },
            )
        elif method == "tools/list":
            send(id=request_id, result={"tools": [{"name": "ok", "inputSchema": {"type": "object"}}]})
        elif method == "tools/call":
            params = message["params"]
            call(request_id, params["name"], params.get("arguments") or {})
        elif request_id is not None and not is_silent_on_unknown:
            send(id=request_id, error={"code": -32601, "message": "Method not found"})


def main():
    mode = sys.argv[1] if len(sys.argv) > 1 else "fine"
    match mode:
        case "exit":
            print("cannot open the database: no such file", file=sys.stderr)
            sys.exit(7)
        case "hang":
            threading.Event().wait()
        case "flaky":  # fails until the file exists
            if not Path(sys.argv[2]).exists():
                print("waiting for better times", file=sys.stderr)
                sys.exit(4)
        case "banner":
            print("*** Welcome to NaughtyMCP 1.0 ***\nListening on stdio")
            sys.stdout.flush()
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(mode)
    if mode == "stubborn":
        threading.Event().wait()


main()
