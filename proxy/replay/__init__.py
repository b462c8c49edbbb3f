"""What the proxy would have made of a recorded day: an access log, replayed without a network.

`entries` reads the log's lines, `listings` finds out how long listings were, `simulation` asks the proxy's own gateway
the same requests at the same moments of a clock that only the log moves, before an upstream that has those listings.
"""
