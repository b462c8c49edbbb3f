"""Pure decisions: no I/O, no clock, no dice. What lives here can be tested without `async` and without a mock."""
