"""The one error of the look-alike: an answer that says no."""

CODES = {
    400: "IMG.0024",
    401: "IMG.0005",
    403: "IMG.0003",
    404: "IMG.0027",
    405: "IMG.0004",
    409: "IMG.0009",
    413: "IMG.0013",
    415: "IMG.0015",
    500: "IMG.0001",
}
"""An IMS error code per status. The shape is documented; the numbers are stand-ins, and nothing may rely on them."""


class RefusedError(Exception):
    """The request can't be granted: *status* is what HTTP says about it, *message* what a person reads."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.code = CODES[status]
