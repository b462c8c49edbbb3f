"""The whole proxy over real sockets."""
