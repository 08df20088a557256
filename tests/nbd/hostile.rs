//! Hostile clients against a server in a process of its own. After each: it lives, and a polite client is served. At
//! the end: its memory and descriptors are back at what they were.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use sealdisk::nbd::Config;
use sealdisk::nbd::wire::handshake::{InfoRequest, MetaContextRequest, OptionHeader, OptionType};
use sealdisk::nbd::wire::transmission::{HeaderStyle, Request, command, command_flag as cflag};

use crate::child::{CERTIFICATES, Serving};
use crate::fixture::MIB;
use crate::raw::{ACK, Client, polite};
use crate::support::Certificates;

const STYLES: [HeaderStyle; 3] = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended];
const EDGES: [u64; 12] = [
    0,
    1,
    511,
    (1 << 25) - 1,
    1 << 25,
    (1 << 25) + 1,
    u32::MAX as u64 - 1,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    u64::MAX - 511,
    u64::MAX,
];

/// Where writes go that nobody waits for: they may land late, and polite clients look at the beginning.
const AWAY: u64 = 24 * MIB;
/// Bytes by which the memory at rest may differ.
const SLACK: u64 = 2 << 20;
/// Bytes that a server with default limits has at most, whatever clients do.
pub(crate) const PEAK: u64 = 256 << 20;

/// The names of the connections of a battery that had one, in order.
struct Battery<'a> {
    server: &'a mut Serving,
    connections: usize,
}

impl Battery<'_> {
    /// One kind of hostile client, then a look at what it did.
    fn run(&mut self, name: &str, attack: impl FnOnce(&Path) -> usize) {
        let start = Instant::now();
        self.connections += attack(&self.server.socket);
        println!("{:5} ms  {name}", start.elapsed().as_millis());
        assert!(self.server.is_alive(), "{name}");
        polite(&self.server.socket);
    }
}

/// Sends bytes that the server may refuse to take to the end.
fn pour(stream: &mut UnixStream, bytes: &[u8]) {
    use std::io::Write;
    let _ = stream.write_all(bytes);
}

fn raw(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// A whole conversation up to the first requests, as one client would say it without listening.
fn script(style: HeaderStyle) -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    let mut option = |option, data: &[u8]| {
        bytes.extend(OptionHeader { option, length: data.len() as u32 }.emit());
        bytes.extend_from_slice(data);
    };
    match style {
        HeaderStyle::Simple => {}
        HeaderStyle::Structured => option(OptionType::StructuredReply, &[]),
        HeaderStyle::Extended => option(OptionType::ExtendedHeaders, &[]),
    }
    let contexts = MetaContextRequest { name: "", queries: vec!["base:allocation", "qemu:"] }.emit();
    option(OptionType::SetMetaContext, &contexts);
    option(OptionType::List, &[]);
    option(OptionType::Go, &InfoRequest { name: "disk", wanted: vec![0, 1, 2, 3] }.emit());
    let flags = if style == HeaderStyle::Extended { cflag::PAYLOAD_LEN } else { 0 };
    bytes.extend(Request { flags, command: command::WRITE, cookie: 1, offset: 5, length: 40 }.emit(style));
    bytes.extend([b'w'; 40]);
    bytes.extend(Request { flags: 0, command: command::READ, cookie: 2, offset: 0, length: 100 }.emit(style));
    bytes
}

#[test]
fn the_server_outlives_them_all() {
    let config = Config::default();
    // One heap, not one for each of some threads, of which every one keeps what it once had: so that what is left over
    // is seen and not what the C library keeps.
    let certificates = Certificates::make();
    let environment = [("MALLOC_ARENA_MAX", "1"), (CERTIFICATES, certificates.folder().to_str().unwrap())];
    let mut server = Serving::start_with(64 * MIB, &config, &environment);
    warm_up(&server, config.limits.max_connections);
    let (resident, descriptors) = (server.resident(), server.descriptors());
    let mut battery = Battery { server: &mut server, connections: 0 };
    handshakes(&mut battery);
    options(&mut battery);
    requests(&mut battery);
    floods(&mut battery);
    let connections = battery.connections;
    assert!(connections >= 40);

    // The goal is what it was, but for what no two runs have the same; the figure is printed, and fails at five times
    // that.
    wait_until_released(&server, resident, descriptors);
    let peak = server.peak();
    println!(
        "{connections} hostile connections; resident {} KiB before, {} KiB after, {} KiB at its peak, the goal {} KiB; descriptors {descriptors}",
        resident >> 10,
        server.resident() >> 10,
        peak >> 10,
        PEAK >> 10,
    );
    assert!(peak < PEAK, "a peak of {} MiB", peak >> 20);
}

/// Has as many polite clients at once as there are places, and waits until their threads are gone: the C library keeps
/// stacks and heaps of threads for the next ones, as many as there ever were at once, so only then is a base a base.
fn warm_up(server: &Serving, connections: usize) {
    polite(&server.socket);
    let threads = server.threads();
    let mut clients: Vec<_> = (0..connections).map(|i| Client::attached(&server.socket, STYLES[i % 3])).collect();
    let requests: Vec<_> = clients
        .iter_mut()
        .enumerate()
        .map(|(i, client)| {
            client.write(32 * MIB + i as u64 * 65_536, &[1; 65_536]);
            client.request(command::FLUSH, 0, 0, 0, &[])
        })
        .collect();
    for (client, cookie) in clients.iter_mut().zip(requests) {
        assert_eq!(client.outcome(cookie), 0);
        client.read(0, 512);
    }
    drop(clients);
    let start = Instant::now();
    while server.threads() > threads {
        assert!(start.elapsed() < Duration::from_secs(60), "{} threads, {threads} before", server.threads());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until memory and descriptors are back: buffers are kept for a second, threads for five.
fn wait_until_released(server: &Serving, resident: u64, descriptors: usize) {
    let start = Instant::now();
    while server.resident() > resident + SLACK || server.descriptors() > descriptors {
        if start.elapsed() > Duration::from_secs(20) {
            let (now, open) = (server.resident(), server.descriptors());
            let message = format!("{now} bytes, {open} descriptors; {resident}, {descriptors} before");
            assert!(now <= resident + 5 * SLACK && open <= descriptors, "{message}");
            return println!("{message}: over the goal");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn handshakes(battery: &mut Battery<'_>) {
    battery.run("gone at every byte of a handshake", |socket| {
        let mut count = 0;
        for style in STYLES {
            let script = script(style);
            for cut in 0..script.len() {
                pour(&mut raw(socket), &script[..cut]);
                count += 1;
            }
        }
        count
    });
    battery.run("half-open handshakes", |socket| {
        let open: Vec<_> = (0..300).map(|_| raw(socket)).collect();
        polite(socket);
        open.len()
    });
    battery.run("client flags", |socket| {
        for flags in [4, 8, 1 << 16, u32::MAX] {
            let mut client = Client::connect(socket);
            client.greet(flags);
            client.assert_ended();
        }
        4
    });
    battery.run("a client of the web", |socket| {
        let mut stream = raw(socket);
        pour(&mut stream, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        1
    });
    battery.run("TLS from the first byte", |socket| {
        pour(&mut raw(socket), &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
        1
    });
}

fn options(battery: &mut Battery<'_>) {
    let every = [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 0, 4, u32::MAX];
    battery.run("a length that never comes", |socket| {
        for option in every {
            for length in [u32::MAX, 1 << 31, (64 << 10) + 1, 64 << 10, 7] {
                let mut client = Client::greeted(socket);
                client.send(&OptionHeader { option: option.into(), length }.emit());
                client.send(&[0; 6]);
            }
        }
        every.len() * 5
    });
    battery.run("lengths inside an option", |socket| {
        for option in [OptionType::Info, OptionType::Go, OptionType::ListMetaContext, OptionType::SetMetaContext] {
            let mut client = Client::greeted(socket);
            client.negotiate(HeaderStyle::Structured);
            for length in [1, 6, 7, 0xffff, u32::MAX - 3, u32::MAX] {
                let mut data = length.to_be_bytes().to_vec();
                data.extend([0xff; 40]);
                assert!(client.option(option, &data).last().unwrap().kind > 1 << 31);
            }
        }
        4
    });
    battery.run("options without end", |socket| {
        let mut client = Client::greeted(socket);
        let one = OptionHeader { option: OptionType::Unknown(99), length: 0 }.emit();
        let flood = one.repeat(100_000);
        let mut stream = raw(socket);
        // It stops taking them once its answers are not taken.
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        pour(&mut stream, &3u32.to_be_bytes());
        pour(&mut stream, &flood);
        for _ in 0..2000 {
            client.option(OptionType::List, &[]);
        }
        2
    });
    battery.run("repeated and disordered options", |socket| {
        let mut client = Client::greeted(socket);
        for _ in 0..20 {
            for option in [OptionType::StructuredReply, OptionType::ExtendedHeaders] {
                client.option(option, &[]);
            }
            client.option(OptionType::StartTls, b"with data");
            client.meta_context(OptionType::SetMetaContext, "disk", &["base:allocation"; 256]);
        }
        client.style = HeaderStyle::Extended;
        client.go("");
        client.read(0, 512);
        1
    });
    battery.run("plaintext behind STARTTLS", |socket| {
        let start = OptionHeader { option: OptionType::StartTls, length: 0 }.emit();
        let option =
            |option, data: &[u8]| [&OptionHeader { option, length: data.len() as u32 }.emit()[..], data].concat();
        let go = option(OptionType::Go, &InfoRequest { name: "disk", wanted: vec![] }.emit());
        let injected = [
            option(OptionType::List, &[]),
            option(OptionType::ExportName, b"disk"),
            option(OptionType::StartTls, &[]),
            [&go[..], &script(HeaderStyle::Structured)].concat(),
            vec![0; 100_000],
            // A record of TLS that is longer than any may be.
            vec![0x16, 3, 3, 0xff, 0xff, 1],
        ];
        for injected in &injected {
            let mut client = Client::greeted(socket);
            client.send(&start);
            assert_eq!(client.option_replies().last().unwrap().kind, ACK);
            client.shout(injected);
            drop(client);
            // All at once, as an attacker between the two would have it arrive.
            let mut client = Client::greeted(socket);
            client.shout(&[&start[..], injected].concat());
            assert_eq!(client.option_replies().last().unwrap().kind, ACK);
        }
        injected.len() * 2
    });
    battery.run("contexts by the thousand", |socket| {
        let mut client = Client::greeted(socket);
        client.negotiate(HeaderStyle::Structured);
        let mut data = vec![0, 0, 0, 0];
        data.extend(u32::MAX.to_be_bytes());
        data.extend([0; 60_000]);
        assert!(client.option(OptionType::SetMetaContext, &data).last().unwrap().kind > 1 << 31);
        1
    });
}

fn requests(battery: &mut Battery<'_>) {
    battery.run("every field at its extremes", |socket| {
        let mut count = 0;
        for style in STYLES {
            for command in 0..=9 {
                // A long write is drained to its end, and there is none: it gets a connection of its own below.
                let flags = [0, 1, 0x1e, 0xffdf];
                let mut client = Client::attached(socket, style);
                for flags in flags {
                    for (offset, length) in EDGES.into_iter().flat_map(|o| EDGES.into_iter().map(move |l| (o, l))) {
                        let payload = match (command, style) {
                            (command::WRITE, HeaderStyle::Simple | HeaderStyle::Structured) => length & 0xffff_ffff,
                            (command::WRITE, HeaderStyle::Extended) => length,
                            _ => 0,
                        };
                        let long_read = command == command::READ && (512..=32 << 20).contains(&length);
                        if payload > 511 || command == command::DISC || long_read {
                            continue;
                        }
                        let cookie = client.request(command, flags, offset, length, &vec![0; payload as usize]);
                        match command {
                            command::READ if length < 512 => drop(client.read_reply(cookie, offset, length as usize)),
                            _ => drop(client.outcome(cookie)),
                        }
                    }
                }
                count += 1;
            }
        }
        count
    });
    battery.run("writes whose payload never comes", |socket| {
        let mut clients = Vec::new();
        for style in STYLES {
            let flags = if style == HeaderStyle::Extended { cflag::PAYLOAD_LEN } else { 0 };
            for length in [1, 512, 64 << 10, 32 << 20] {
                for sent in [0, 1, length / 2] {
                    let mut client = Client::attached(socket, style);
                    client.request(command::WRITE, flags, AWAY, length, &vec![0; sent as usize]);
                    clients.push(client);
                }
            }
        }
        polite(socket);
        clients.len()
    });
    battery.run("eight clients that announce the budget", |socket| {
        let mut clients: Vec<_> = (0..8).map(|_| Client::attached(socket, HeaderStyle::Structured)).collect();
        for client in &mut clients {
            client.request(command::WRITE, 0, AWAY, 32 << 20, &[]);
        }
        polite(socket);
        for client in &mut clients {
            client.send(&vec![1; 1 << 20]);
        }
        polite(socket);
        clients.len()
    });
    battery.run("a payload that was never offered", |socket| {
        for length in [(32 << 20) + 1, 1 << 32, u64::MAX] {
            let mut client = Client::attached(socket, HeaderStyle::Extended);
            client.request(command::WRITE, cflag::PAYLOAD_LEN, 0, length, &[]);
            client.assert_ended();
        }
        3
    });
    battery.run("garbage after good requests", |socket| {
        for style in STYLES {
            let mut client = Client::attached(socket, style);
            client.write(0, &[7; 512]);
            let noise: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            client.shout(&noise);
        }
        3
    });
    battery.run("block status over the end", |socket| {
        let mut client = Client::attached_with(socket, HeaderStyle::Structured, &["base:allocation"]);
        for (offset, length) in [(64 * MIB, 1), (64 * MIB - 1, 2), (u64::MAX, 1), (0, u64::from(u32::MAX))] {
            assert_eq!(client.status(offset, length, 0), Err(22));
        }
        1
    });
    battery.run("goodbye in the middle of everything", |socket| {
        for style in STYLES {
            let mut client = Client::attached(socket, style);
            let flags = cflag::FUA | if style == HeaderStyle::Extended { cflag::PAYLOAD_LEN } else { 0 };
            let mut bytes = Vec::new();
            for cookie in 0..50 {
                // Nobody waits for them, so they may land late: away from where polite clients look.
                let offset = 8 * MIB + cookie * 4096;
                let write = Request { flags, command: command::WRITE, cookie, offset, length: 4096 };
                bytes.extend(write.emit(style));
                bytes.extend([1; 4096]);
                let read = Request { flags: 0, command: command::READ, cookie, offset: 0, length: 512 };
                bytes.extend(read.emit(style));
            }
            let goodbye = Request { flags: 0x7f, command: command::DISC, cookie: 0, offset: u64::MAX, length: 99 };
            bytes.extend(goodbye.emit(style));
            client.shout(&bytes);
        }
        3
    });
}

fn floods(battery: &mut Battery<'_>) {
    for style in STYLES {
        battery.run("reads that are never drained, then closed", |socket| {
            for length in [512, 4096, 1 << 20, 32 << 20] {
                let mut client = Client::attached(socket, style);
                let requests: Vec<u8> = (0..500)
                    .flat_map(|cookie| {
                        Request { flags: 0, command: command::READ, cookie, offset: 0, length }.emit(style)
                    })
                    .collect();
                // More than fits any buffer between us, so that the server has to stop taking them.
                client.shout(&requests);
                polite(socket);
            }
            4
        });
    }
    battery.run("flushes and trims that are never drained", |socket| {
        let mut client = Client::attached(socket, HeaderStyle::Structured);
        let mut bytes = Vec::new();
        for cookie in 0..2000 {
            let flush = Request { flags: 0, command: command::FLUSH, cookie, offset: 0, length: 0 };
            let trim = Request {
                flags: cflag::FUA,
                command: command::TRIM,
                offset: 16 * MIB + cookie * 4096,
                length: 4096,
                ..flush
            };
            bytes.extend([flush.emit(client.style), trim.emit(client.style)].concat());
        }
        client.shout(&bytes);
        polite(socket);
        1
    });
    battery.run("many clients that read and never listen", |socket| {
        let clients: Vec<_> = (0..60)
            .map(|i| {
                let mut client = Client::attached(socket, STYLES[i % 3]);
                let read = Request { flags: 0, command: command::READ, cookie: 1, offset: 0, length: 32 << 20 };
                client.shout(&read.emit(client.style).repeat(20));
                client
            })
            .collect();
        polite(socket);
        clients.len()
    });
    battery.run("connections that come and go", |socket| {
        for _ in 0..300 {
            drop(Client::attached(socket, HeaderStyle::Extended));
        }
        300
    });
    battery.run("more clients than there are places", |socket| {
        let mut clients = Vec::new();
        for _ in 0..100 {
            let mut client = Client::greeted(socket);
            if client.info(OptionType::Go, "", &[]).last().unwrap().kind != 1 {
                break;
            }
            clients.push(client);
        }
        let mut refused = Client::greeted(socket);
        assert!(refused.info(OptionType::Go, "", &[]).last().unwrap().kind > 1 << 31);
        let count = clients.len() + 1;
        drop(clients);
        // Their places are free once the server has noticed.
        while refused.info(OptionType::Go, "", &[]).last().unwrap().kind != 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
        count
    });
}
