"""Several connections that write numbered pages durably until the server goes away.

usage: writers.py URI PAGES CONNECTIONS MARK

Each connection has PAGES pages of its own. A page holds its number, over and over. Every third write is followed by a
flush, the others are sent with FUA. Prints a line a page: its index, the last number that was answered, and the last
one that was sent. The file MARK is made once every connection has had some answers. From then on the server may go
away; a connection that fails before, or in any other way than by an error of NBD, ends the program with status 1.
"""

import os
import random
import struct
import sys
import threading
import traceback

import nbd

PAGE = 512
SOME = 10


class UnderWay:
    """Makes the file once every connection has had some answers. Nobody waits for anybody here."""

    def __init__(self, connections, mark):
        self.missing, self.mark, self.lock = connections, mark, threading.Lock()

    def arrived(self):
        with self.lock:
            self.missing -= 1
            if not self.missing:
                open(self.mark, "w").close()


def write(uri, first, pages, answered, sent, under_way):
    client = nbd.NBD()
    client.connect_uri(uri)
    choose = random.Random(first)
    number = 0
    try:
        while True:
            number += 1
            page = first + choose.randrange(pages)
            sent[page] = number
            content = struct.pack("<Q", number) * (PAGE // 8)
            if number % 3:
                client.pwrite(content, page * PAGE, nbd.CMD_FLAG_FUA)
            else:
                client.pwrite(content, page * PAGE)
                client.flush()
            answered[page] = number
            if number == SOME:
                under_way.arrived()
    except nbd.Error as error:
        if under_way.missing:
            raise
        print(error, file=sys.stderr)


failing = threading.Lock()


def give_up(failed):
    """Ends the program, whatever the other threads do. The first to fail tells."""
    failing.acquire()
    print(f"{failed.thread.name} failed, and not because the server went away under all of them:", file=sys.stderr)
    traceback.print_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)
    sys.stderr.flush()
    os._exit(1)


threading.excepthook = give_up
uri, pages, connections, mark = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
under_way = UnderWay(connections, mark)
answered, sent = {}, {}
threads = [
    threading.Thread(
        name=f"connection {number}", target=write, args=(uri, number * pages, pages, answered, sent, under_way)
    )
    for number in range(connections)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for page, number in sorted(sent.items()):
    print(page, answered.get(page, 0), number)
