//! The handshake phase.

use std::time::Duration;

use sealdisk::nbd::Config;
use sealdisk::nbd::wire::handshake::{MetaContextRequest, OptionHeader, OptionType};
use sealdisk::nbd::wire::transmission::{HeaderStyle, command, flag};
use sealdisk::serve::Limits;

use crate::fixture::{MIB, ServerFixture, Shelf};
use crate::raw::{ACK, Client, ERR, INFO, META_CONTEXT, OptionReply, SERVER, polite};

const ERR_UNSUP: u32 = ERR + 1;
const ERR_POLICY: u32 = ERR + 2;
const ERR_INVALID: u32 = ERR + 3;
const ERR_UNKNOWN: u32 = ERR + 6;
const ERR_TOO_BIG: u32 = ERR + 9;
const ERR_EXT_HEADER_REQD: u32 = ERR + 10;

fn kinds(replies: &[OptionReply]) -> Vec<u32> {
    replies.iter().map(|reply| reply.kind).collect()
}

/// The one reply to an option.
fn only(replies: &[OptionReply]) -> u32 {
    assert_eq!(replies.len(), 1, "{replies:?}");
    replies[0].kind
}

#[test]
fn a_polite_client_is_served() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    polite(&fixture.socket);
}

#[test]
fn unknown_client_flags_end_the_session() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    for flags in [4, 1 << 31, 7] {
        let mut client = Client::connect(&fixture.socket);
        client.greet(flags);
        client.assert_ended();
    }
}

#[test]
fn export_name_answers_with_and_without_zeroes() {
    let (fixture, disk) = ServerFixture::plain(MIB);
    for (flags, zeroes) in [(3, 0), (1, 124), (2, 0), (0, 124)] {
        for name in ["disk", ""] {
            let mut client = Client::connect(&fixture.socket);
            client.greet(flags);
            client.send_option(OptionType::ExportName, name.as_bytes());
            assert_eq!(client.receive(8), disk.size().to_be_bytes());
            let flags = u16::from_be_bytes(client.receive(2).try_into().unwrap());
            assert_ne!(flags & flag::HAS_FLAGS, 0);
            assert_eq!(flags & flag::SEND_DF, 0, "no DF without chunks");
            assert_eq!(client.receive(zeroes), vec![0; zeroes]);
            client.write(0, b"there");
            assert_eq!(client.read(0, 5), b"there");
        }
    }
}

#[test]
fn export_name_of_nothing_ends_the_session() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let long = vec![b'x'; 5000];
    for name in [&b"nothing"[..], b"dis\xff", b"disk\0", &long] {
        let mut client = Client::greeted(&fixture.socket);
        client.send_option(OptionType::ExportName, name);
        client.assert_ended();
    }
    // A client with extended headers has to use GO.
    let mut client = Client::greeted(&fixture.socket);
    client.negotiate(HeaderStyle::Extended);
    client.send_option(OptionType::ExportName, b"disk");
    client.assert_ended();
}

#[test]
fn a_client_that_is_not_fixed_newstyle_has_export_name_only() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::connect(&fixture.socket);
    client.greet(0);
    client.send_option(OptionType::List, &[]);
    client.assert_ended();
}

#[test]
fn abort_is_acknowledged_whatever_data_it_has() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    for data in [&b""[..], b"leaving"] {
        let mut client = Client::greeted(&fixture.socket);
        assert_eq!(only(&client.option(OptionType::Abort, data)), ACK);
        client.assert_ended();
    }
}

#[test]
fn list_names_and_describes_every_export_of_the_moment() {
    let (shelf, disk) = Shelf::with_disk(MIB);
    let fixture = ServerFixture::new(&shelf, Config::default());
    let mut client = Client::greeted(&fixture.socket);
    let listed = |client: &mut Client| -> Vec<(String, String)> {
        let replies = client.option(OptionType::List, &[]);
        let (last, servers) = replies.split_last().unwrap();
        assert_eq!(last.kind, ACK);
        let one = |reply: &OptionReply| {
            assert_eq!((reply.kind, reply.option), (SERVER, 3));
            let (length, rest) = reply.data.split_at(4);
            let (name, description) = rest.split_at(u32::from_be_bytes(length.try_into().unwrap()) as usize);
            (String::from_utf8(name.to_vec()).unwrap(), String::from_utf8(description.to_vec()).unwrap())
        };
        servers.iter().map(one).collect()
    };
    let named = |name: &str| (name.to_owned(), format!("the disk {name}"));
    assert_eq!(listed(&mut client), [named("disk")]);
    shelf.put("vhds/other", &disk, true);
    assert_eq!(listed(&mut client), [named("disk"), named("vhds/other")]);
    assert_eq!(only(&client.info(OptionType::Info, "", &[])), ERR_UNKNOWN, "two exports, no default");
    shelf.remove("disk");
    assert_eq!(listed(&mut client), [named("vhds/other")]);
    assert_eq!(only(&client.info(OptionType::Go, "disk", &[])), ERR_UNKNOWN);
    assert_ne!(client.go("vhds/other") & flag::READ_ONLY, 0);
}

#[test]
fn a_list_of_thousands_comes_in_pieces_and_to_a_client_that_takes_them() {
    const EXPORTS: usize = 5000;
    let (shelf, disk) = Shelf::with_disk(MIB);
    // Names of a length at which they do not all fit into a socket.
    let name = |index: usize| format!("{index:0200}");
    (0..EXPORTS).for_each(|index| shelf.put(&name(index), &disk, true));
    let limit = std::time::Duration::from_millis(500);
    let fixture = ServerFixture::new(&shelf, Config::from(Limits { handshake_timeout: limit, ..Limits::default() }));
    let mut client = Client::greeted(&fixture.socket);
    let replies = client.option(OptionType::List, &[]);
    assert_eq!(replies.len(), EXPORTS + 2);
    let listed = replies.iter().filter(|reply| reply.kind == SERVER).map(|reply| reply.data[4..204].to_vec());
    let names = (0..EXPORTS).map(|index| name(index).into_bytes());
    assert!(listed.take(EXPORTS).eq(names));
    // As qemu-nbd --list goes on: of each some options. What is answered gives back time.
    for index in 0..EXPORTS {
        assert_eq!(client.info(OptionType::Info, &name(index), &[]).last().unwrap().kind, ACK);
    }
    // One that takes nothing has its time.
    let mut stuck = Client::greeted(&fixture.socket);
    let began = std::time::Instant::now();
    stuck.send_option(OptionType::List, &[]);
    std::thread::sleep(limit * 4);
    while stuck.try_receive().is_some() {}
    assert!(began.elapsed() < limit * 40);
}

#[test]
fn an_attached_disk_stays_when_its_export_goes() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::attached(&fixture.socket, HeaderStyle::Structured);
    fixture.shelf.remove("disk");
    client.write(0, b"still here");
    assert_eq!(client.read(0, 10), b"still here");
}

#[test]
fn options_without_data_refuse_data() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    for option in [OptionType::List, OptionType::StructuredReply, OptionType::ExtendedHeaders, OptionType::StartTls] {
        assert_eq!(only(&client.option(option, b"x")), ERR_INVALID, "{option:?}");
    }
    // None of them took effect.
    let queries = MetaContextRequest { name: "", queries: vec![] }.emit();
    assert_eq!(only(&client.option(OptionType::SetMetaContext, &queries)), ERR_INVALID);
}

#[test]
fn starttls_without_a_certificate_is_refused_by_policy() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    assert_eq!(only(&client.option(OptionType::StartTls, &[])), ERR_POLICY);
    client.go("");
}

#[test]
fn unknown_options_are_unsupported_and_their_data_skipped() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    for option in [0, 4, 12, 0x7fff_ffff, u32::MAX] {
        let replies = client.option(OptionType::Unknown(option), &[0x49; 333]);
        assert_eq!((replies[0].option, only(&replies)), (option, ERR_UNSUP));
    }
    client.go("");
}

#[test]
fn info_gives_what_is_asked_and_go_gives_the_same() {
    let (fixture, disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    // 0x7777 is no information type: it is ignored.
    let wanted = [3, 1, 0x7777, 2];
    let informed = client.info(OptionType::Info, "", &wanted);
    assert_eq!(kinds(&informed), [INFO, INFO, INFO, INFO, ACK]);
    let of = |kind: u16| &informed.iter().find(|info| info.data.starts_with(&kind.to_be_bytes())).unwrap().data[2..];
    assert_eq!(of(0)[..8], disk.size().to_be_bytes());
    assert_eq!(of(0).len(), 10);
    assert_eq!(of(1), b"disk", "the canonical name of the default");
    assert_eq!(of(2), b"the disk disk");
    assert_eq!(of(3), [512u32, 4096, 32 << 20].map(u32::to_be_bytes).concat());
    assert_eq!(kinds(&client.info(OptionType::Info, "disk", &[])), [INFO, ACK]);
    let gone: Vec<_> = client.info(OptionType::Go, "", &wanted).into_iter().map(|reply| reply.data).collect();
    assert_eq!(gone, informed.into_iter().map(|reply| reply.data).collect::<Vec<_>>());
    assert_eq!(client.read(0, 512), [0; 512]);
}

#[test]
fn a_failed_go_leaves_the_haggling_going() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    for option in [OptionType::Info, OptionType::Go] {
        assert_eq!(only(&client.info(option, "nothing", &[0])), ERR_UNKNOWN);
        for data in [&b""[..], &[0, 0, 0, 9, b'x', 0, 0], &[0xff; 30], &[0, 0, 0, 0, 0, 1], &[0; 7]] {
            assert_eq!(only(&client.option(option, data)), ERR_INVALID, "{data:?}");
        }
        let name = ["x"; 4097].concat();
        assert_eq!(only(&client.info(option, &name, &[])), ERR_INVALID);
        assert_eq!(only(&client.info(option, &name[..4096], &[])), ERR_UNKNOWN);
    }
    client.go("");
}

#[test]
fn transmission_flags_say_what_is_there() {
    let (shelf, disk) = Shelf::with_disk(MIB);
    shelf.put("fixed", &disk, true);
    let fixture = ServerFixture::new(&shelf, Config::default());
    let flags = |name: &str, style, contexts: &[&str]| {
        let mut client = Client::greeted(&fixture.socket);
        client.negotiate(style);
        if !contexts.is_empty() {
            client.meta_context(OptionType::SetMetaContext, name, contexts);
        }
        client.go(name)
    };
    let always = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE | flag::CAN_MULTI_CONN;
    let writable = always | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO;
    assert_eq!(flags("disk", HeaderStyle::Simple, &[]), writable);
    assert_eq!(flags("disk", HeaderStyle::Structured, &["base:allocation"]), writable | flag::SEND_DF);
    assert_eq!(flags("fixed", HeaderStyle::Structured, &[]), always | flag::SEND_DF | flag::READ_ONLY);
    assert_eq!(flags("disk", HeaderStyle::Extended, &[]), writable | flag::SEND_DF);
    let payload = writable | flag::SEND_DF | flag::BLOCK_STATUS_PAYLOAD;
    assert_eq!(flags("disk", HeaderStyle::Extended, &["base:allocation"]), payload);
}

#[test]
fn contexts_are_listed_by_query() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    let none = client.meta_context(OptionType::ListMetaContext, "", &[]);
    assert_eq!(only(&none), ERR_INVALID, "structured replies come first");
    client.negotiate(HeaderStyle::Structured);
    let mut listed = |queries: &[&str]| -> Vec<String> {
        let replies = client.meta_context(OptionType::ListMetaContext, "disk", queries);
        let (last, contexts) = replies.split_last().unwrap();
        assert_eq!(last.kind, ACK);
        assert!(contexts.iter().all(|reply| reply.kind == META_CONTEXT && reply.data[..4] == [0; 4]));
        contexts.iter().map(|reply| String::from_utf8(reply.data[4..].to_vec()).unwrap()).collect()
    };
    let all = ["base:allocation", "qemu:allocation-depth", "sealdisk:encryption"];
    assert_eq!(listed(&[]), all);
    assert_eq!(listed(&["base:", "sealdisk:"]), ["base:allocation", "sealdisk:encryption"]);
    assert_eq!(listed(&["qemu:allocation-depth", "x-strange:thing", "base:nothing"]), ["qemu:allocation-depth"]);
    assert_eq!(listed(&["x-strange:"]), [""; 0]);
}

#[test]
fn contexts_are_selected_by_exact_name() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    client.negotiate(HeaderStyle::Structured);
    let mut select = |queries: &[&str]| kinds(&client.meta_context(OptionType::SetMetaContext, "", queries));
    assert_eq!(select(&["base:", "qemu:"]), [ACK], "wildcards select nothing");
    assert_eq!(select(&[]), [ACK]);
    assert_eq!(select(&["no colon"]), [ERR_INVALID]);
    assert_eq!(
        select(&["base:allocation", "base:allocation", "sealdisk:encryption"]),
        [META_CONTEXT, META_CONTEXT, ACK]
    );
    // A failure takes back what was selected.
    let unknown = client.meta_context(OptionType::SetMetaContext, "nothing", &["base:allocation"]);
    assert_eq!(only(&unknown), ERR_UNKNOWN);
    client.go("");
    assert_eq!(client.try_request(command::BLOCK_STATUS, 0, 0, 512), 22);
}

#[test]
fn contexts_hold_for_the_export_they_were_selected_for() {
    let (shelf, disk) = Shelf::with_disk(MIB);
    shelf.put("other", &disk, false);
    let fixture = ServerFixture::new(&shelf, Config::default());
    for (go, error) in [("other", 22), ("disk", 0)] {
        let mut client = Client::greeted(&fixture.socket);
        client.negotiate(HeaderStyle::Structured);
        client.meta_context(OptionType::SetMetaContext, "disk", &["base:allocation"]);
        client.go(go);
        assert_eq!(client.status(0, 512, 0).err().unwrap_or(0), error);
    }
}

#[test]
fn malformed_queries_are_refused_and_counted() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    client.negotiate(HeaderStyle::Structured);
    let whole = MetaContextRequest { name: "disk", queries: vec!["base:allocation", "qemu:"] }.emit();
    for option in [OptionType::ListMetaContext, OptionType::SetMetaContext] {
        for cut in 0..whole.len() {
            assert_eq!(only(&client.option(option, &whole[..cut])), ERR_INVALID, "cut at {cut}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert_eq!(only(&client.option(option, &longer)), ERR_INVALID);
        let many = vec!["base:allocation"; 257];
        assert_eq!(only(&client.meta_context(option, "", &many)), ERR_TOO_BIG);
        assert_eq!(client.meta_context(option, "", &many[..256]).last().unwrap().kind, ACK);
        let name = ["x"; 4097].concat();
        assert_eq!(only(&client.meta_context(option, "", &[&name])), ERR_INVALID);
    }
}

#[test]
fn extended_headers_take_precedence_over_structured_replies() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    client.negotiate(HeaderStyle::Structured);
    client.negotiate(HeaderStyle::Extended);
    assert_eq!(only(&client.option(OptionType::StructuredReply, &[])), ERR_EXT_HEADER_REQD);
    client.go("");
    assert_eq!(client.read(0, 4), [0; 4]);
}

#[test]
fn oversized_options_are_skipped() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    let limit = Config::default().max_option_bytes as usize;
    for option in [OptionType::Go, OptionType::List, OptionType::Unknown(77), OptionType::SetMetaContext] {
        assert_eq!(only(&client.option(option, &vec![0x4e; limit + 1])), ERR_TOO_BIG);
    }
    assert_eq!(only(&client.option(OptionType::Unknown(77), &vec![0x4e; limit])), ERR_UNSUP);
    client.go("");
}

#[test]
fn garbage_instead_of_an_option_ends_the_session() {
    let (fixture, _disk) = ServerFixture::plain(MIB);
    let mut client = Client::greeted(&fixture.socket);
    let mut header = OptionHeader { option: OptionType::List, length: 0 }.emit();
    header[3] ^= 1;
    client.send(&header);
    client.assert_ended();
}

#[test]
fn the_number_of_options_is_limited() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let fixture = ServerFixture::new(&shelf, Config { max_options: 5, ..Config::default() });
    let mut client = Client::greeted(&fixture.socket);
    for _ in 0..4 {
        client.option(OptionType::List, &[]);
    }
    client.go("");
    let mut client = Client::greeted(&fixture.socket);
    for _ in 0..5 {
        client.option(OptionType::List, &[]);
    }
    client.send_option(OptionType::Go, &[0; 6]);
    client.assert_ended();
}

#[test]
fn names_and_option_data_have_settable_limits() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let config = Config { max_option_bytes: 64, max_name: 8, max_queries: 2, ..Config::default() };
    let fixture = ServerFixture::new(&shelf, config);
    let mut client = Client::greeted(&fixture.socket);
    assert_eq!(only(&client.option(OptionType::Unknown(99), &[0; 65])), ERR_TOO_BIG);
    assert_eq!(only(&client.option(OptionType::Unknown(99), &[0; 64])), ERR_UNSUP);
    assert_eq!(only(&client.info(OptionType::Info, "123456789", &[])), ERR_INVALID);
    assert_eq!(only(&client.info(OptionType::Info, "12345678", &[])), ERR_UNKNOWN);
    client.negotiate(HeaderStyle::Structured);
    assert_eq!(only(&client.meta_context(OptionType::ListMetaContext, "", &["a:"; 3])), ERR_TOO_BIG);
    assert_eq!(only(&client.meta_context(OptionType::ListMetaContext, "", &["a:"; 2])), ACK);
}

#[test]
fn a_handshake_has_its_time() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let fixture = ServerFixture::new(
        &shelf,
        Config::from(Limits { handshake_timeout: Duration::from_millis(50), ..Limits::default() }),
    );
    let mut silent = Client::connect(&fixture.socket);
    let mut slow = Client::greeted(&fixture.socket);
    slow.send(b"IHAVE");
    silent.receive(18);
    silent.assert_ended();
    slow.assert_ended();
    polite(&fixture.socket);
}

#[test]
fn connections_are_limited_and_their_places_given_back() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let fixture = ServerFixture::new(&shelf, Config::from(Limits { max_connections: 2, ..Limits::default() }));
    let mut first = Client::attached(&fixture.socket, HeaderStyle::Simple);
    let _second = Client::attached(&fixture.socket, HeaderStyle::Simple);
    let mut third = Client::greeted(&fixture.socket);
    assert_eq!(only(&third.info(OptionType::Go, "", &[])), ERR_POLICY);
    assert_eq!(kinds(&third.info(OptionType::Info, "", &[])), [INFO, ACK]);
    let mut named = Client::greeted(&fixture.socket);
    named.send_option(OptionType::ExportName, b"disk");
    named.assert_ended();
    first.request(command::DISC, 0, 0, 0, &[]);
    first.assert_ended();
    // The place is free once the server has noticed.
    while third.info(OptionType::Go, "", &[]).last().unwrap().kind != ACK {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(third.read(0, 1), [0]);
}

#[test]
fn the_oldest_handshake_makes_room() {
    let (shelf, _disk) = Shelf::with_disk(MIB);
    let fixture = ServerFixture::new(&shelf, Config::from(Limits { max_handshakes: 4, ..Limits::default() }));
    let mut half_open: Vec<_> = (0..12).map(|_| Client::greeted(&fixture.socket)).collect();
    polite(&fixture.socket);
    half_open[0].assert_ended();
    half_open.pop().unwrap().go("");
}
