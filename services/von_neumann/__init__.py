"""The agent von-neumann: computation and decision analysis.

    skill ──> Workers ──JSON lines──> worker process, one for each running task, under limits of time and memory
    project-valuation ──mesh──> tools of `financial`

Expressions are read by a parser of their own; nothing that a caller writes is ever executed.
"""
