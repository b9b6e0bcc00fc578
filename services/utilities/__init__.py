"""The utilities MCP server: time zones, units, hashes and encodings, JSON, texts, calendar. Stands alone.

host ──stdio──> ToolServer ──> plain functions, a module for each subject
                         └──> jq in a process of its own, under limits
"""
