"""Several connections that write numbered pages durably until the server goes away.

usage: writers.py URI PAGES CONNECTIONS MARK

Each connection has PAGES pages of its own. A page holds its number, over and over. Every third write is followed by a
flush, the others are sent with FUA. Prints a line a page: its index, the last number that was answered, and the last
one that was sent. The file MARK is made once every connection has had some answers.
"""

import random
import struct
import sys
import threading

import nbd

PAGE = 512
SOME = 30


def write(uri, first, pages, answered, sent):
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
                under_way.wait()
    except nbd.Error as error:
        print(error, file=sys.stderr)


uri, pages, connections, mark = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
under_way = threading.Barrier(connections, lambda: open(mark, "w").close())
answered, sent = {}, {}
threads = [
    threading.Thread(target=write, args=(uri, number * pages, pages, answered, sent)) for number in range(connections)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for page, number in sorted(sent.items()):
    print(page, answered.get(page, 0), number)
