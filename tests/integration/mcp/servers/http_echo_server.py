"""Not an MCP server: records each HTTP request and answers with the bytes that it is told to, by path."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The value of "answer" in the request's params tells how to answer.
ODD_JSON = '{"jsonrpc" : "2.0", "id":%s,"result":{ "pi": 3.10, "big":123456789012345678901234567890, "e":1E2 }}'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        message = json.loads(body)
        if "id" not in message:
            self.reply(202, "", b"")
            return
        request_id = json.dumps(message["id"])
        how = (message.get("params") or {}).get("answer", "json")
        match how:
            case "json":
                self.reply(200, "application/json", (ODD_JSON % request_id).encode())
            case "pretty":
                self.reply(200, "application/json", json.dumps(json.loads(ODD_JSON % request_id), indent=2).encode())
            case "events":
                first = '{"jsonrpc":"2.0",  "method":"notifications/message","params":{"level":"info","data":1}}'
                events = f"event: message\ndata: {first}\n\n: comment\n\ndata: {ODD_JSON % request_id}\n\n"
                self.reply(200, "text/event-stream", events.encode())
            case "headers":
                headers = {name.lower(): value for name, value in self.headers.items()}
                result = {"headers": headers, "body": body.decode()}
                self.reply(
                    200,
                    "application/json",
                    json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode(),
                )
            case "null_id":
                error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32020, "message": "mismatch"}}
                self.reply(400, "application/json", json.dumps(error).encode())
            case "large":
                self.reply(200, "application/json", (ODD_JSON % request_id).encode() + b" " * 400_000)
            case _:
                self.reply(int(how), "text/plain", b"no")

    def reply(self, status, content_type, body):
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
