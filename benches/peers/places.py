"""Where everything listens, the same for every pair."""

from namespaces import SERVER

# The server, in its namespace on all addresses: directly, and for proxy B on loopback.
ORIGIN = (SERVER, 8080)
ORIGIN_BEHIND_B = ("127.0.0.1", 8080)
STATUS = ("127.0.0.1", 8081)
# Where the client finds proxy A, and A finds B.
A = ("127.0.0.1", 15001)
B = (SERVER, 15008)


def text(address):
    return f"{address[0]}:{address[1]}"
