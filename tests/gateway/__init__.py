"""From question to answer: real stores, a scripted upstream, a clock held by hand."""
