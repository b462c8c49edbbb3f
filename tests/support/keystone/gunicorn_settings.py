"""How gunicorn runs Keystone; it reads the module's names as its settings."""

worker_class = "gthread"
workers = 1
threads = 4
timeout = 120
keepalive = 75
graceful_timeout = 5
control_socket_disable = True
limit_request_field_size = 0
