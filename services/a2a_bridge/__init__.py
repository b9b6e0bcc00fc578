"""Puts an agent of A2A that is elsewhere into the mesh, as an agent of the mesh's own.

    caller ──AgentService──> TaskBoard ──> Relay, one for each task ──JSON-RPC or HTTP+JSON──> agent elsewhere
                               └── keeps the task: what the other side does not know any more is still here

Skills, tasks, questions, artifacts and cancellation are carried both ways. Started by `meshctl run a2a NAME --url URL`.
"""
