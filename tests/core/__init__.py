"""The pure decisions: tables and laws, without a loop, a clock or a stand-in."""
