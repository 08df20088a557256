//! Limits, time-outs and the end of a server.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use sealdisk::nbd::wire::handshake::OptionType;
use sealdisk::nbd::wire::transmission::{HeaderStyle, ReplyHeader, Request, command, command_flag as cflag};
use sealdisk::nbd::{Config, Server};
use sealdisk::serve::{Exports, Limits};

use crate::fixture::{MIB, ServerFixture, Shelf};
use crate::raw::{Client, ERR, polite};
use crate::transmission::pattern;

/// Long beside the pauses of a busy machine.
const SHORT: Duration = Duration::from_millis(500);
const ESHUTDOWN: u32 = 108;

#[test]
fn an_idle_client_is_let_go_only_when_asked_for() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let fixture = ServerFixture::new(&shelf, Config::from(Limits { idle_timeout: Some(SHORT), ..Limits::default() }));
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Simple);
    client.read(0, 512);
    client.assert_ended();
    polite(&fixture.socket);

    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Simple);
    // Longer than buffers are kept.
    std::thread::sleep(Duration::from_millis(1200));
    client.write(0, b"still here");
    assert_eq!(client.read(0, 10), b"still here");
}

#[test]
fn a_request_that_stops_half_way_has_its_time() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let fixture = ServerFixture::new(&shelf, Config::from(Limits { stall_timeout: SHORT, ..Limits::default() }));
    let write = Request { flags: 0, command: command::WRITE, cookie: 1, offset: 0, length: 100_000 };
    let bytes = [write.emit(HeaderStyle::Simple), vec![0; 50_000]].concat();
    for sent in [1, 27, 28, 29, bytes.len()] {
        let mut client = Client::attached(&fixture.socket, HeaderStyle::Simple);
        client.send(&bytes[..sent]);
        client.assert_ended();
    }
    // Between two requests there is no hurry.
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Simple);
    std::thread::sleep(SHORT * 2);
    client.write(0, &[1]);
}

#[test]
fn a_client_that_takes_no_replies_has_its_time() {
    for style in [HeaderStyle::Simple, HeaderStyle::Structured] {
        let (shelf, _disk) = Shelf::with_disk(8 * MIB);
        let fixture = ServerFixture::new(
            &shelf,
            Config::from(Limits { stall_timeout: SHORT, max_connections: 1, ..Limits::default() }),
        );
        let mut client = Client::attached(&fixture.socket, style);
        client.request(command::READ, cflag::DF * u16::from(style != HeaderStyle::Simple), 0, 8 * MIB, &[]);
        // Its place is free once it has been cut off.
        let mut next = Client::greeted(&fixture.socket);
        while next.info(OptionType::Go, "", &[]).last().unwrap().kind > ERR {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn few_requests_may_be_in_flight_and_all_are_answered() {
    let (shelf, _disk) = Shelf::with_disk(8 * MIB);
    let fixture =
        ServerFixture::new(&shelf, Config::from(Limits { max_in_flight: 2, workers: 1, ..Limits::default() }));
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Structured);
    let mut bytes = Vec::new();
    for cookie in 0..200 {
        let request = match cookie % 4 {
            0 => Request { flags: 0, command: command::FLUSH, cookie, offset: 0, length: 0 },
            1 => Request { flags: 0, command: command::TRIM, cookie, offset: 512, length: 512 },
            2 => Request { flags: cflag::FUA, command: command::WRITE, cookie, offset: cookie * 4096, length: 512 },
            _ => Request { flags: 0, command: command::CACHE, cookie, offset: 0, length: MIB },
        };
        bytes.extend(request.emit(client.style));
        if request.command == command::WRITE {
            bytes.extend([5; 512]);
        }
    }
    client.send(&bytes);
    let mut answered: Vec<u64> = (0..200)
        .map(|_| match client.reply(0).header {
            ReplyHeader::Simple { error: 0, cookie } => cookie,
            other => panic!("{other:?}"),
        })
        .collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(0..200));
}

#[test]
fn clients_that_hold_the_budget_do_not_stall_another() {
    let (shelf, _disk) = Shelf::with_disk(64 * MIB);
    // What is not reserved is 1 MiB; a quarter of the budget is less than one long request.
    let config = Config::from(Limits { budget: 2 << 20, max_connections: 16, ..Limits::default() });
    let fixture = ServerFixture::new(&shelf, config);
    let mut hogs: Vec<_> = (0..8).map(|_| Client::attached(&fixture.socket, HeaderStyle::Structured)).collect();
    for (i, hog) in hogs.iter_mut().enumerate() {
        match i % 2 {
            0 => hog.request(command::WRITE, 0, 0, 32 << 20, &vec![1; 300_000]),
            _ => hog.request(command::READ, 0, 0, 32 << 20, &[]),
        };
    }
    for style in [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended] {
        let mut ninth = Client::attached(&fixture.socket, style);
        let data = pattern(8, 5 << 20);
        assert_eq!(ninth.try_write(40 * MIB, &data, cflag::FUA), 0);
        assert!(ninth.read(40 * MIB, 5 << 20) == data);
        let whole = if style == HeaderStyle::Simple { 0 } else { cflag::DF };
        assert!(ninth.try_read(40 * MIB, 5 << 20, whole).as_ref() == Ok(&data));
    }
    drop(hogs);
    polite(&fixture.socket);
}

#[test]
fn a_stopping_server_refuses_and_ends_with_clients_attached() {
    let (shelf, disk) = Shelf::with_disk(8 * MIB);
    let grace = Duration::from_secs(2);
    let mut fixture = ServerFixture::new(&shelf, Config::from(Limits { shutdown_grace: grace, ..Limits::default() }));
    let mut idle = Client::attached(&fixture.socket, HeaderStyle::Structured);
    let mut haggling = Client::greeted(&fixture.socket);
    let mut busy = Client::attached(&fixture.socket, HeaderStyle::Extended);
    let data = pattern(2, 1 << 20);
    busy.write(0, &data);
    fixture.stop();
    // What was answered before the stop stays; what arrives after it is refused, payload and all.
    while busy.try_request(command::FLUSH, 0, 0, 0) != ESHUTDOWN {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(busy.try_write(0, &[9; 100_000], 0), ESHUTDOWN);
    assert_eq!(busy.try_read(0, 512, 0), Err(ESHUTDOWN));
    assert_eq!(haggling.option(OptionType::List, &[])[0].kind, ERR + 7);
    assert_eq!(haggling.info(OptionType::Go, "", &[])[0].kind, ERR + 7);
    assert_eq!(haggling.option(OptionType::Abort, &[])[0].kind, 1);
    // Its other threads stop to accept in a moment of their own.
    let deadline = Instant::now() + grace / 2;
    while std::os::unix::net::UnixStream::connect(&fixture.socket).is_ok() {
        assert!(Instant::now() < deadline, "it goes on accepting");
        std::thread::sleep(Duration::from_millis(1));
    }
    let start = Instant::now();
    fixture.join();
    assert!(start.elapsed() < Duration::from_secs(10), "it does not wait for clients that stay");
    idle.assert_ended();
    busy.assert_ended();
    let mut read = vec![0; data.len()];
    disk.read(0, &mut read).unwrap();
    assert!(read == data);
}

#[test]
fn a_server_whose_clients_leave_ends_at_once() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let mut fixture = ServerFixture::new(
        &shelf,
        Config::from(Limits { shutdown_grace: Duration::from_secs(60), ..Limits::default() }),
    );
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Simple);
    fixture.stop();
    while client.try_request(command::FLUSH, 0, 0, 0) != ESHUTDOWN {}
    client.request(command::DISC, 0, 0, 0, &[]);
    fixture.join();
}

#[test]
fn without_a_grace_nobody_is_refused_at_the_end() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let mut fixture =
        ServerFixture::new(&shelf, Config::from(Limits { shutdown_grace: Duration::ZERO, ..Limits::default() }));
    let mut stream = std::os::unix::net::UnixStream::connect(&fixture.socket).unwrap();
    nbd::client::handshake(&mut stream, b"").unwrap();
    let mut stopped = false;
    let (mut answered, mut reply) = (0_u64, [0; 16]);
    // Flushes without an error, until the connection ends between two of them.
    loop {
        let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
        request.extend([0, 0, 0, 3]);
        request.extend(answered.to_be_bytes());
        request.extend([0; 12]);
        if stream.write_all(&request).is_err() || stream.read_exact(&mut reply).is_err() {
            break;
        }
        assert_eq!(reply[4..8], [0; 4], "a flush is answered, not refused");
        assert_eq!(reply[8..], answered.to_be_bytes());
        answered += 1;
        if answered == 100 {
            fixture.stop();
            stopped = true;
        }
    }
    assert!(stopped);
    fixture.join();
}

#[test]
fn requests_in_flight_are_finished_at_the_end() {
    let (shelf, _disk) = Shelf::with_disk(64 * MIB);
    let mut fixture =
        ServerFixture::new(&shelf, Config::from(Limits { shutdown_grace: Duration::ZERO, ..Limits::default() }));
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Structured);
    let mut bytes = Vec::new();
    for cookie in 0..64 {
        let write =
            Request { flags: cflag::FUA, command: command::WRITE, cookie, offset: cookie * 65_536, length: 4096 };
        bytes.extend(write.emit(client.style));
        bytes.extend([cookie as u8; 4096]);
    }
    client.send(&bytes);
    // The first answer says that the server has begun.
    let first = client.reply(0);
    fixture.stop();
    let mut outcomes = vec![first];
    outcomes.extend((1..64).map(|_| client.reply(0)));
    for reply in outcomes {
        match reply.header {
            ReplyHeader::Simple { error: 0, .. } | ReplyHeader::Chunk { kind: 0x8001, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    client.assert_ended();
}

#[test]
fn sockets_of_the_service_manager_and_tcp_of_both_families() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let handed = shelf.path("activated.sock");
    let listener: OwnedFd = UnixListener::bind(&handed).unwrap().into();
    let mut addresses = Vec::new();
    let fixture = ServerFixture::with_server(&shelf, Config::default(), |server| {
        server.adopt(listener).unwrap();
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            // A machine without IPv6 has one address less.
            addresses.extend(server.listen_tcp(addr.parse().unwrap()));
        }
        assert!(server.listen_tcp("0.0.0.0:0".parse().unwrap()).is_err());
    });
    polite(&handed);
    polite(&fixture.socket);
    assert!(!addresses.is_empty());
    for addr in addresses {
        let mut client = Client::connect_tcp(addr);
        client.greet(3);
        client.go("");
        client.write(0, b"over TCP");
        assert_eq!(client.read(0, 8), b"over TCP");
    }
}

#[test]
fn a_server_needs_settings_that_fit() {
    let shelf = Shelf::new();
    let config = Config::from(Limits { max_connections: 100_000, ..Limits::default() });
    let refused = Server::new(shelf as std::sync::Arc<dyn Exports>, config);
    assert!(refused.is_err_and(|error| error.kind() == sealdisk::ErrorKind::InvalidInput));
}
