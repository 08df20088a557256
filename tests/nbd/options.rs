//! The limits as a user sets them: options of `serve`, in the program itself, at each limit and over it.
//!
//! How many reads wait for the disk at once cannot be seen from outside: `cold` has `--max-in-flight` and
//! `--disk-threads`.

use std::time::{Duration, Instant};

use sealdisk::nbd::wire::handshake::OptionType;
use sealdisk::nbd::wire::transmission::{HeaderStyle, Request, command, command_flag as cflag};

use crate::fixture::MIB;
use crate::raw::{ACK, Client, ERR, OptionReply};
use crate::support::{Account, run};

const STYLES: [HeaderStyle; 3] = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended];
const EINVAL: u32 = 22;
const EOVERFLOW: u32 = 75;
const ESHUTDOWN: u32 = 108;

fn account() -> Account {
    let account = Account::new();
    account.create("disk", 4 * MIB);
    account
}

fn last(replies: &[OptionReply]) -> u32 {
    replies.last().unwrap().kind
}

#[test]
fn what_a_handshake_may_ask() {
    let account = account();
    let options = ["--max-options=5", "--max-option-bytes=64", "--max-name=8", "--max-queries=2"];
    let server = account.serve_with(&options);
    let mut client = Client::greeted(server.socket());
    assert_eq!(last(&client.option(OptionType::Unknown(99), &[0; 65])), ERR + 9);
    assert_eq!(last(&client.option(OptionType::Unknown(99), &[0; 64])), ERR + 1);
    assert_eq!(last(&client.info(OptionType::Info, "123456789", &[])), ERR + 3);
    assert_eq!(last(&client.info(OptionType::Info, "12345678", &[])), ERR + 6);
    client.go("");
    let mut client = Client::greeted(server.socket());
    client.negotiate(HeaderStyle::Structured);
    assert_eq!(last(&client.meta_context(OptionType::ListMetaContext, "", &["a:"; 3])), ERR + 9);
    assert_eq!(last(&client.meta_context(OptionType::ListMetaContext, "", &["a:"; 2])), ACK);
    for _ in 0..2 {
        assert_eq!(last(&client.option(OptionType::List, &[])), ACK);
    }
    client.send_option(OptionType::Go, &[0; 6]);
    client.assert_ended();
}

#[test]
fn how_long_a_request_may_be() {
    let account = account();
    let server = account.serve_with(&["--max-request=1M"]);
    let most = MIB as usize;
    for style in STYLES {
        let mut client = Client::greeted(server.socket());
        client.negotiate(style);
        let told = client.info(OptionType::Go, "", &[3]);
        let sizes = told.iter().find(|reply| reply.data.starts_with(&[0, 3])).unwrap();
        assert_eq!(sizes.data[10..], (1u32 << 20).to_be_bytes(), "the maximum is told");
        let data = vec![style as u8 + 1; most];
        client.write(512, &data);
        assert!(client.read(512, most) == data, "{style:?}");
        assert_eq!(client.try_read(512, most + 1, 0), Err(EOVERFLOW), "{style:?}");
        if style == HeaderStyle::Extended {
            // Such a payload was never offered.
            client.request(command::WRITE, cflag::PAYLOAD_LEN, 512, MIB + 1, &[]);
            client.assert_ended();
        } else {
            assert_eq!(client.try_write(512, &vec![0xff; most + 1], 0), EINVAL);
            assert!(client.read(512, most) == data, "a refused write changes nothing");
        }
    }
}

#[test]
fn how_many_clients_there_may_be() {
    let account = account();
    let server = account.serve_with(&["--max-connections=2"]);
    let mut clients = [(); 2].map(|()| Client::attached(server.socket(), HeaderStyle::Simple));
    let mut third = Client::greeted(server.socket());
    assert_eq!(last(&third.info(OptionType::Go, "", &[])), ERR + 2);
    for client in &mut clients {
        client.read(0, 512);
    }
    drop(server);

    let server = account.serve_with(&["--max-handshakes=3"]);
    let mut haggling: Vec<_> = (0..3).map(|_| Client::greeted(server.socket())).collect();
    for client in &mut haggling {
        assert_eq!(last(&client.option(OptionType::List, &[])), ACK, "as many as may be");
    }
    haggling.push(Client::greeted(server.socket()));
    haggling.remove(0).assert_ended();
    for mut client in haggling {
        client.go("");
    }
}

#[test]
fn how_long_a_client_may_take() {
    let account = account();
    // Long beside the pauses of a busy machine.
    let limit = Duration::from_secs(1);
    let server = account.serve_with(&["--handshake-timeout=1"]);
    let mut attached = Client::attached(server.socket(), HeaderStyle::Simple);
    let start = Instant::now();
    let mut silent = Client::greeted(server.socket());
    silent.assert_ended();
    assert!(start.elapsed() >= limit, "it had its time");
    attached.read(0, 512);
    drop(server);

    let server = account.serve_with(&["--stall-timeout=1"]);
    let mut client = Client::attached(server.socket(), HeaderStyle::Simple);
    std::thread::sleep(limit * 2);
    let write = Request { flags: 0, command: command::WRITE, cookie: 1, offset: 0, length: 512 };
    let bytes = [write.emit(HeaderStyle::Simple), vec![7; 512]].concat();
    client.send(&bytes[..100]);
    std::thread::sleep(limit / 10);
    client.send(&bytes[100..]);
    assert_eq!(client.outcome(1), 0, "between requests, and for a moment within one, there is time");
    let start = Instant::now();
    client.send(&bytes[..100]);
    client.assert_ended();
    assert!(start.elapsed() >= limit);
    drop(server);

    let server = account.serve_with(&["--idle-timeout=1"]);
    let mut client = Client::attached(server.socket(), HeaderStyle::Simple);
    for _ in 0..15 {
        client.read(0, 512);
        std::thread::sleep(limit / 10);
    }
    let start = Instant::now();
    client.read(0, 512);
    client.assert_ended();
    assert!(start.elapsed() >= limit, "from the last request on");
}

/// From SIGTERM on, whoever stays is answered that the server is shutting down, for as long as was said, and then let
/// go.
#[test]
fn how_long_a_stopping_server_answers() {
    let account = account();
    for (option, grace) in [("--shutdown-grace=3", 3000), ("--shutdown-grace=0", 0)] {
        let grace = Duration::from_millis(grace);
        let server = account.serve_with(&[option]);
        let mut stays = Client::attached(server.socket(), HeaderStyle::Structured);
        let mut asks = Client::attached(server.socket(), HeaderStyle::Extended);
        asks.write(0, &[1; 512]);
        let start = Instant::now();
        server.signal_terminate();
        let mut refused = 0;
        while !grace.is_zero() && (refused == 0 || start.elapsed() < grace / 6) {
            match asks.try_write(0, &[2; 512], 0) {
                0 => assert_eq!(refused, 0, "once it stops, it stops"),
                error => {
                    assert_eq!(error, ESHUTDOWN);
                    refused += 1;
                }
            }
        }
        stays.assert_ended();
        let took = start.elapsed();
        asks.assert_ended();
        assert!(server.ended().success());
        println!("{option}: clients that stay are let go after {} ms", took.as_millis());
        assert!((grace..grace + Duration::from_secs(5)).contains(&took), "{option}: {took:?}");
    }
}

/// A signal that is sent to the server and to its group arrives twice and means the same; a later one means at once.
#[test]
fn a_signal_that_comes_twice_at_a_time_is_one() {
    let account = account();
    let server = account.serve_with(&["--shutdown-grace=0.2"]);
    let mut stays = Client::attached(server.socket(), HeaderStyle::Structured);
    server.signal_terminate();
    // So that the kernel does not make one of them.
    std::thread::sleep(Duration::from_millis(5));
    server.signal_terminate();
    stays.assert_ended();
    assert!(server.ended().success());

    let server = account.serve_with(&["--shutdown-grace=600"]);
    let _stays = Client::attached(server.socket(), HeaderStyle::Structured);
    let said = server.log().matches("stopping").count();
    server.signal_terminate();
    while server.log().matches("stopping").count() == said {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(700));
    server.signal_terminate();
    assert_eq!(server.ended().code(), Some(1));
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let account = account();
    // Half of the budget is what the clients have for certain.
    drop(account.serve_with(&["--buffer-budget=2M", "--max-connections=16"]));
    drop(account.serve_with(&["--buffer-budget=1M", "--max-connections=1", "--max-request=4K"]));
    for wrong in [
        "--buffer-budget=2M --max-connections=17",
        "--buffer-budget=1023K --max-connections=1",
        "--max-request=4095",
        "--max-request=1025M",
        "--max-connections=0",
        "--max-handshakes=0",
        "--max-options=0",
        "--max-in-flight=0",
        "--disk-threads=0",
        "--handshake-timeout=0",
        "--stall-timeout=0",
        "--idle-timeout=0",
    ] {
        let output = run(account.command().args(["serve", "--json"]).args(wrong.split(' ')));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&said["error"]["kind"], output.status.code()),
            (&"InvalidInput".into(), Some(1)),
            "{wrong}: {said}"
        );
    }
}
