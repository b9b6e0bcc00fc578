"""The guard: the edge Envoy asks it about every call before it goes on.

    Check ──> credentials ──> Principal ─┐
         └──> targets ──────> Target ────┴──> decide ──> answer, user token, audit

It is served on a unix socket of its own, which no client can reach.
"""
