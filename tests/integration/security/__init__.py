"""What an attacker may try, against the running proxy."""
