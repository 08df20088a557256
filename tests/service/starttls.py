"""Prints the serial number of the certificate that an NBD server on TCP shows, checked against a CA.

usage: starttls.py PORT CA CERT KEY
"""
import socket
import ssl
import struct
import sys

port, ca, cert, key = int(sys.argv[1]), *sys.argv[2:]
plain = socket.create_connection(("127.0.0.1", port), timeout=20)


def receive(count):
    data = b""
    while len(data) < count:
        data += plain.recv(count - len(data)) or sys.exit("the server hung up")
    return data


receive(18)
plain.sendall(struct.pack(">I", 3) + struct.pack(">QII", 0x49484156454F5054, 5, 0))
reply = struct.unpack(">QIII", receive(20))
assert reply[2] == 1, reply
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
with context.wrap_socket(plain, server_hostname="localhost") as tls:
    # The server's word on our certificate comes with the first answer.
    tls.sendall(struct.pack(">QII", 0x49484156454F5054, 2, 0))
    assert struct.unpack(">QIII", tls.recv(20))[2] == 1
    print(tls.getpeercert()["serialNumber"])
