"""Not an MCP server: gives every line back, byte for byte, and ends with its input."""

import sys

for line in sys.stdin.buffer:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
