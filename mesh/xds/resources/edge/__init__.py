"""The edge: what clients outside of the mesh meet.

    listener ──> filters ──> limits, tokens      what is asked of a request, in this order
        └──────> routes                          where it goes

What the mesh document may change while connections are open comes apart from the listener (ECDS, RDS); bounds of
connections are the listener's own.
"""
