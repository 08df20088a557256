//! Servers that are broken or hostile, as the source of an import. After each: one line says which server it was and
//! what it did, nothing half-made is seen by anybody, and an import from a good one works.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sealdisk::nbd::wire::handshake::{OptionType, ReplyType, greeting, info_block_size, info_export};
use sealdisk::nbd::wire::transmission::{ChunkType, command};
use serde_json::Value;

use crate::fixture::{Running, content as content_of, failure_of};
use crate::peer::{CONTEXT, Peer, SIZE, Script, Stage, chunk_header, content, context, honest, status};
use crate::support::{Account, MIB, run};

/// Bytes of memory that the program may have while it listens to such a server.
const MEMORY: &str = "--data=167772160";

struct Battery {
    account: Account,
    stage: Stage,
    /// More options of the import.
    options: &'static [&'static str],
    attacks: usize,
}

impl Battery {
    fn new() -> Self {
        let account = Account::new();
        let stage = Stage::new(&account);
        Self { account, stage, options: &[], attacks: 0 }
    }

    /// One import from a server that does as `attack` says, and one from a good server in its place.
    fn run(
        &mut self,
        name: &str,
        (kind, told): (&str, &str),
        attack: impl Fn(&mut Peer) -> std::io::Result<()> + Send + Sync + 'static,
    ) {
        let started = Instant::now();
        self.stage.play(Arc::new(attack));
        let uri = self.stage.uri();
        let mut import = self.account.command_under(&["prlimit", MEMORY]);
        let document = failure_of(&run(import.args(["import", &uri, "disk", "--json"]).args(self.options)));
        let message = document["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(told) && document["error"]["kind"] == kind, "{name}: {document}");
        assert!(message.contains(&uri) && !message.contains(char::is_control), "{name}: {document}");
        assert!(message.len() < 600, "{name}: {document}");
        let disks = || std::fs::read_dir(self.account.dir().join("disks")).unwrap().count();
        match &document["unfinished"] {
            Value::Null => assert_eq!(disks(), 0, "{name}"),
            unfinished => assert_eq!((unfinished, disks()), (&"disk".into(), 1), "{name}"),
        }
        self.stage.play(Arc::new(honest));
        let document = self.account.json(&["import", &uri, "disk"]);
        assert_eq!((&document["size_bytes"], &document["verified"]), (&SIZE.into(), &true.into()), "{name}");
        // Where something of the bad one could be left.
        if document["resumed"] == true {
            assert!(content_of(&self.account, "disk") == content(), "{name}");
        }
        self.account.sealdisk(&["delete", "disk", "--yes"]);
        assert_eq!(disks(), 0, "{name}");
        println!("{:5} ms  {name}: {message}", started.elapsed().as_millis());
        self.attacks += 1;
    }
}

const NONSENSE: (&str, &str) = ("Io", "sent nonsense");

fn saying(kind: &'static str, told: &'static str) -> (&'static str, &'static str) {
    (kind, told)
}

#[test]
fn handshakes() {
    let mut battery = Battery::new();
    battery.run("gone at once", saying("Shutdown", "ended the connection"), |_| Ok(()));
    battery.run("a server of the web", NONSENSE, |peer| peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    battery.run("oldstyle", saying("Unsupported", "too old"), |peer| {
        peer.say(&[&b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53"[..], &[0; 136]].concat())
    });
    battery.run("newstyle, not fixed", saying("Unsupported", "too old"), |peer| peer.say(b"NBDMAGICIHAVEOPT\0\0"));
    for cut in [1, 17] {
        battery.run("gone within the greeting", saying("Shutdown", "ended"), move |peer| peer.say(&greeting()[..cut]));
    }
    for option in [OptionType::StructuredReply, OptionType::SetMetaContext, OptionType::Go] {
        battery.run("gone before the reply", saying("Shutdown", "ended"), move |peer| peer.until(option, SIZE));
        battery.run("garbage for a reply", saying("Io", "no reply to the option"), move |peer| {
            peer.until(option, SIZE)?;
            peer.say(&[0xa5; 4096])
        });
        battery.run("the reply to another option", saying("Io", "no reply to the option"), move |peer| {
            peer.until(option, SIZE)?;
            peer.reply(OptionType::List, ReplyType::Ack, &[])
        });
        battery.run("replies without end", NONSENSE, move |peer| {
            peer.until(option, SIZE)?;
            let (kind, data) = match option {
                OptionType::Go => (ReplyType::Info, vec![0, 1, b'x']),
                _ => (ReplyType::MetaContext, context(CONTEXT, "base:allocation")),
            };
            loop {
                peer.reply(option, kind, &data)?;
            }
        });
        for length in [u32::MAX, 1 << 31, (64 << 10) + 1] {
            battery.run("a reply that is too long", saying("Io", "an option reply of"), move |peer| {
                peer.until(option, SIZE)?;
                let mut header = Vec::new();
                sealdisk::nbd::wire::handshake::put_reply(&mut header, option, ReplyType::Info, &[]);
                header[16..20].copy_from_slice(&length.to_be_bytes());
                peer.say(&header)?;
                loop {
                    peer.say(&[0; 65_536])?;
                }
            });
        }
        battery.run("TLS wanted", saying("Unsupported", "wants TLS"), move |peer| {
            peer.until(option, SIZE)?;
            peer.reply(option, ReplyType::ErrTlsReqd, b"TLS please")
        });
    }
    for contexts in [
        vec![context(1, "qemu:dirty-bitmap:x")],
        vec![context(1, "base:allocation"), context(2, "base:allocation")],
        vec![vec![0, 0]],
        (0..1000).map(|id| context(id, "base:allocation")).collect(),
    ] {
        battery.run("contexts nobody asked for", saying("Io", "not asked for"), move |peer| {
            peer.until(OptionType::SetMetaContext, SIZE)?;
            for context in &contexts {
                peer.reply(OptionType::SetMetaContext, ReplyType::MetaContext, context)?;
            }
            peer.reply(OptionType::SetMetaContext, ReplyType::Ack, &[])
        });
    }
    battery.run(
        "refused, in bad words",
        saying("NotFound", "does not give the export \"x\": \u{fffd}red[2Jx"),
        |peer| {
            peer.until(OptionType::Go, SIZE)?;
            let words = [&b"\xff\x1b\x07red\r\n\x1b[2J"[..], &[b'x'; 4000]].concat();
            peer.reply(OptionType::Go, ReplyType::ErrUnknown, &words)
        },
    );
    battery.run("stopping", saying("Shutdown", "does not give"), |peer| {
        peer.until(OptionType::Go, SIZE)?;
        peer.reply(OptionType::Go, ReplyType::ErrShutdown, &[])
    });
    let infos: [(&str, Vec<Vec<u8>>); 7] = [
        ("no size", vec![]),
        ("two sizes", vec![info_export(SIZE, 1).into(), info_export(SIZE, 1).into()]),
        ("half a size", vec![info_export(SIZE, 1)[..7].into()]),
        ("half an information", vec![vec![0]]),
        ("no flags", vec![info_export(SIZE, 0).into()]),
        ("block sizes that cannot be", vec![info_export(SIZE, 1).into(), info_block_size(1 << 20, 0, 3).into()]),
        ("a largest block of nothing", vec![info_export(SIZE, 1).into(), info_block_size(1, 4096, 0).into()]),
    ];
    for (name, infos) in infos {
        battery.run(name, NONSENSE, move |peer| {
            peer.until(OptionType::Go, SIZE)?;
            for info in &infos {
                peer.reply(OptionType::Go, ReplyType::Info, info)?;
            }
            peer.reply(OptionType::Go, ReplyType::Ack, &[])
        });
    }
    for (size, told) in [
        (0, ("InvalidInput", "has 0 bytes")),
        (SIZE + 1, ("InvalidInput", "no whole number of 512-byte pages")),
        (1 << 63, NONSENSE),
        (u64::MAX, NONSENSE),
        (u64::MAX - 511, NONSENSE),
    ] {
        battery.run("a size that cannot be", told, move |peer| {
            peer.attach(size)?;
            peer.fall_silent()
        });
    }
    assert!(battery.attacks >= 45, "{}", battery.attacks);
}

#[test]
fn sizes_that_no_disk_can_have() {
    let account = Account::new();
    let stage = Stage::new(&account);
    for size in [i64::MAX as u64 - 511, 1 << 62] {
        stage.play(Arc::new(move |peer: &mut Peer| peer.attach(size)));
        let import = run(account.command().args(["import", &stage.uri(), "disk", "--json"]));
        let document = failure_of(&import);
        assert_eq!(document["unfinished"], Value::Null, "{document}");
        assert!(document["error"]["kind"] == "InvalidInput" || document["error"]["kind"] == "Io", "{document}");
        assert_eq!(account.json(&["list"]), serde_json::json!([]));
    }
}

/// A chunk: type, whether it is the last, payload.
type Answer = (ChunkType, bool, Vec<u8>);

/// Answers the first block status with these chunks.
fn statuses(chunks: Vec<Answer>) -> impl Fn(&mut Peer) -> std::io::Result<()> + Send + Sync {
    move |peer| {
        peer.attach(SIZE)?;
        let request = peer.request()?;
        assert_eq!(request.command, command::BLOCK_STATUS);
        for (kind, done, payload) in &chunks {
            peer.chunk(*kind, request.cookie, *done, payload)?;
        }
        peer.fall_silent()
    }
}

#[test]
fn block_status() {
    let mut battery = Battery::new();
    let one = ChunkType::BlockStatus;
    let all = SIZE as u32;
    let cases: Vec<(&str, &'static str, Vec<Answer>)> = vec![
        ("another context", "a context that was not asked for", vec![(one, true, status(9, &[(all, 0)]))]),
        ("nothing", "no block status", vec![(ChunkType::None, true, vec![])]),
        ("no extents", "no such length", vec![(one, true, status(CONTEXT, &[]))]),
        ("half an extent", "no such length", vec![(one, true, status(CONTEXT, &[(512, 0)])[..9].into())]),
        ("three bytes", "too short", vec![(one, true, vec![0, 0, 0])]),
        ("an extent of nothing", "length 0", vec![(one, true, status(CONTEXT, &[(0, 0)]))]),
        ("many of nothing", "length 0", vec![(one, true, status(CONTEXT, &[(0, 0); 100_000]))]),
        ("past what was asked", "past what was asked", vec![(one, true, status(CONTEXT, &[(all, 0), (512, 0)]))]),
        ("twice", "a chunk of type 5", vec![(one, false, status(CONTEXT, &[(512, 0)])); 2]),
        ("the end without an end", "a chunk of type 0", vec![(ChunkType::None, false, vec![]); 2]),
        ("content", "another chunk", vec![(ChunkType::OffsetData, true, vec![0; 512])]),
        ("the wide form", "another chunk", vec![(ChunkType::OffsetHole, true, vec![0; 12])]),
        ("an error of none", "an error that is none", vec![(ChunkType::Error, true, vec![0; 6])]),
        ("a short error", "an error that is none", vec![(ChunkType::Error, true, vec![0, 0])]),
        ("an error and no text", "without its text", vec![(ChunkType::Error, true, vec![0, 0, 0, 5, 9, 9])]),
        ("an error and a book", "an error of", vec![(ChunkType::Error, true, vec![b'x'; 70_000])]),
    ];
    for (name, told, chunks) in cases {
        battery.run(name, ("Io", told), statuses(chunks));
    }
    battery.run("more extents than there may be", saying("Io", "a block status of"), |peer| {
        peer.attach(SIZE)?;
        let request = peer.request()?;
        peer.chunk_header(ChunkType::BlockStatus as u16, request.cookie, true, u32::MAX)?;
        loop {
            peer.say(&[0; 65_536])?;
        }
    });
    battery.run("an unasked cookie", saying("Io", "nothing that was asked"), |peer| {
        peer.attach(SIZE)?;
        let request = peer.request()?;
        peer.chunk(ChunkType::BlockStatus, request.cookie + 1, true, &status(CONTEXT, &[(512, 0)]))?;
        peer.fall_silent()
    });
    battery.run("a simple reply", saying("Io", "nothing that was asked"), |peer| {
        peer.attach(SIZE)?;
        let request = peer.request()?;
        peer.simple(request.cookie, 0, &[])?;
        peer.fall_silent()
    });
    battery.run("an error", saying("Io", "no luck at byte 0"), statuses(vec![error(5, "no\r luck")]));
    assert!(battery.attacks >= 20);
}

fn error(number: u32, message: &str) -> Answer {
    let payload = [&number.to_be_bytes()[..], &(message.len() as u16).to_be_bytes(), message.as_bytes()].concat();
    (ChunkType::Error, true, payload)
}

#[test]
fn reads() {
    let mut battery = Battery::new();
    for junk in [vec![0; 4096], vec![0xff; 4096]] {
        battery.run("garbage for a reply", saying("Io", "no reply"), move |peer| {
            peer.first_read()?;
            peer.say(&junk)?;
            peer.fall_silent()
        });
    }
    battery.run("gone", saying("Shutdown", "ended"), |peer| peer.first_read().map(drop));
    battery.run("gone within content", saying("Shutdown", "ended"), |peer| {
        let request = peer.first_read()?;
        peer.chunk_header(ChunkType::OffsetData as u16, request.cookie, true, 8 + request.length as u32)?;
        peer.say(&[0; 5000])
    });
    battery.run("an unasked cookie", saying("Io", "nothing that was asked"), |peer| {
        let request = peer.first_read()?;
        peer.chunk(ChunkType::None, request.cookie ^ 1 << 63, true, &[])?;
        peer.fall_silent()
    });
    battery.run("the same twice", saying("Io", "nothing that was asked"), |peer| {
        let request = peer.first_read()?;
        let bytes = vec![1; request.length as usize];
        peer.data(&request, request.offset, &bytes, true)?;
        peer.data(&request, request.offset, &bytes, true)?;
        peer.fall_silent()
    });
    battery.run("a simple reply after structured ones", saying("Io", "content in a simple reply"), |peer| {
        let request = peer.first_read()?;
        peer.simple(request.cookie, 0, &vec![1; request.length as usize])?;
        peer.fall_silent()
    });
    battery.run("an extended reply", saying("Io", "no reply"), |peer| {
        let request = peer.first_read()?;
        let mut header = chunk_header(ChunkType::None as u16, request.cookie, true, 0);
        header[..4].copy_from_slice(&0x6e8a_278c_u32.to_be_bytes());
        peer.say(&[&header[..], &[0; 12]].concat())?;
        peer.fall_silent()
    });
    // Where a chunk lies, beside the request of its cookie: at, length.
    type Place = fn(u64, u64) -> (u64, u64);
    let outside: [(&str, Place); 6] = [
        ("content before what was asked", |at, _| (at.wrapping_sub(1), 512)),
        ("content behind it", |at, len| (at + len, 512)),
        ("content over its end", |at, len| (at + len - 511, 512)),
        ("content at the end of the world", |_, _| (u64::MAX - 100, 512)),
        ("content at 2^63", |_, _| (1 << 63, 512)),
        ("one byte too many", |at, len| (at, len + 1)),
    ];
    for (name, place) in outside {
        battery.run(name, saying("Io", "content that was not asked for"), move |peer| {
            let request = peer.first_read()?;
            let (at, len) = place(request.offset, request.length);
            peer.data(&request, at, &vec![1; len as usize], false)?;
            peer.fall_silent()
        });
        battery.run(name, saying("Io", "content that was not asked for"), move |peer| {
            let request = peer.first_read()?;
            let (at, len) = place(request.offset, request.length);
            peer.hole(&request, at, len as u32, false)?;
            peer.fall_silent()
        });
    }
    battery.run("a hole of 4 GiB", saying("Io", "content that was not asked for"), |peer| {
        let request = peer.first_read()?;
        peer.hole(&request, request.offset, u32::MAX, true)?;
        peer.fall_silent()
    });
    battery.run("a hole of nothing", saying("Io", "came already, or none"), |peer| {
        let request = peer.first_read()?;
        loop {
            peer.hole(&request, request.offset, 0, false)?;
        }
    });
    battery.run("content of nothing", saying("Io", "a chunk of type 1 and 8 bytes"), |peer| {
        let request = peer.first_read()?;
        loop {
            peer.data(&request, request.offset, &[], false)?;
        }
    });
    battery.run("the same range twice, to stand for one that never came", saying("Io", "came already"), |peer| {
        let request = peer.first_read()?;
        let half = vec![1; request.length as usize / 2];
        peer.data(&request, request.offset, &half, false)?;
        peer.data(&request, request.offset, &half, true)?;
        peer.fall_silent()
    });
    battery.run("a hole over content", saying("Io", "came already"), |peer| {
        let request = peer.first_read()?;
        peer.data(&request, request.offset + 512, &[1; 512], false)?;
        peer.hole(&request, request.offset, request.length as u32, true)?;
        peer.fall_silent()
    });
    battery.run("less than asked for", saying("Io", "less content"), |peer| {
        let request = peer.first_read()?;
        peer.data(&request, request.offset, &vec![1; request.length as usize - 1], true)?;
        peer.fall_silent()
    });
    battery.run("nothing but an end", saying("Io", "less content"), |peer| {
        let request = peer.first_read()?;
        peer.chunk(ChunkType::None, request.cookie, true, &[])?;
        peer.fall_silent()
    });
    battery.run("a byte a chunk", saying("Io", "chunks without end"), |peer| {
        let request = peer.first_read()?;
        // Not in order, so that no two of them touch.
        for at in (0..request.length).step_by(2) {
            peer.data(&request, request.offset + at, &[1], false)?;
        }
        peer.fall_silent()
    });
    battery.run("a read answered by a status", saying("Io", "a chunk of type 5"), |peer| {
        let request = peer.first_read()?;
        peer.status(&request, CONTEXT, &[(512, 0)])?;
        peer.fall_silent()
    });
    for (kind, length) in [(3, 0), (7, 16 << 20), (0x7fff, u32::MAX), (0, 512)] {
        battery.run("a chunk of an unknown kind", saying("Io", "a chunk of type"), move |peer| {
            let request = peer.first_read()?;
            peer.chunk_header(kind, request.cookie, false, length)?;
            loop {
                peer.say(&[0; 65_536])?;
            }
        });
    }
    battery.run("a simple error", saying("Io", "error 5"), |peer| {
        let request = peer.first_read()?;
        peer.simple(request.cookie, 5, &[])?;
        peer.fall_silent()
    });
    for kind in [ChunkType::Error as u16, ChunkType::ErrorOffset as u16, 0xffff] {
        battery.run("an error of some kind", saying("Io", "error 22"), move |peer| {
            let request = peer.first_read()?;
            peer.chunk_header(kind, request.cookie, false, 6)?;
            peer.say(&[0, 0, 0, 22, 0, 0])?;
            peer.fall_silent()
        });
        battery.run("an error that is far too long", saying("Io", "an error of"), move |peer| {
            let request = peer.first_read()?;
            peer.chunk_header(kind, request.cookie, true, u32::MAX)?;
            loop {
                peer.say(&[b'x'; 65_536])?;
            }
        });
    }
    battery.run("no space, on a server that only reads", saying("NoSpace", "no space left"), |peer| {
        let request = peer.first_read()?;
        peer.simple(request.cookie, 28, &[])?;
        peer.fall_silent()
    });
    battery.run("stopping", saying("Shutdown", "the server is stopping"), |peer| {
        let request = peer.first_read()?;
        peer.simple(request.cookie, 108, &[])?;
        peer.fall_silent()
    });
    assert!(battery.attacks >= 40, "{}", battery.attacks);
}

/// Nothing, and next to nothing, at every stage: it ends all the same, and by itself.
#[test]
fn silence_and_trickles() {
    // So slow that no wait of theirs is ever refused for its time alone.
    const PAUSE: Duration = Duration::from_millis(50);
    let vain = "was waited for in vain";
    let attacks: Vec<(&str, Script)> = vec![
        ("no greeting", Arc::new(|peer| peer.fall_silent())),
        ("a greeting by drops", Arc::new(|peer| peer.drip(&greeting().repeat(9), 4 * PAUSE))),
        (
            "no reply to an option",
            Arc::new(|peer| {
                peer.until(OptionType::Go, SIZE)?;
                peer.fall_silent()
            }),
        ),
        (
            "a reply to an option by drops",
            Arc::new(|peer| {
                peer.until(OptionType::Go, SIZE)?;
                let mut reply = Vec::new();
                let data = [0, 2, b'x'].repeat(99);
                sealdisk::nbd::wire::handshake::put_reply(&mut reply, OptionType::Go, ReplyType::Info, &[&data]);
                peer.drip(&reply, PAUSE)
            }),
        ),
        (
            "replies to an option, one now and then",
            Arc::new(|peer| {
                peer.until(OptionType::Go, SIZE)?;
                loop {
                    std::thread::sleep(2 * PAUSE);
                    peer.reply(OptionType::Go, ReplyType::Info, &[0, 1, b'x'])?;
                }
            }),
        ),
        (
            "no status",
            Arc::new(|peer| {
                peer.attach(SIZE)?;
                peer.fall_silent()
            }),
        ),
        (
            "status of a page now and then",
            Arc::new(|peer| {
                peer.attach(SIZE)?;
                loop {
                    let request = peer.request()?;
                    std::thread::sleep(Duration::from_millis(800));
                    peer.status(&request, CONTEXT, &[(512, 3)])?;
                }
            }),
        ),
        (
            "no content",
            Arc::new(|peer| {
                peer.first_read()?;
                peer.fall_silent()
            }),
        ),
        (
            "content by drops",
            Arc::new(|peer| {
                let request = peer.first_read()?;
                let length = 8 + request.length as u32;
                peer.chunk_header(ChunkType::OffsetData as u16, request.cookie, true, length)?;
                peer.say(&request.offset.to_be_bytes())?;
                peer.drip(&[1; 4096], PAUSE)
            }),
        ),
        (
            "a page of content now and then",
            Arc::new(|peer| {
                let request = peer.first_read()?;
                for page in 0..100 {
                    std::thread::sleep(Duration::from_millis(800));
                    peer.data(&request, request.offset + page * 512, &[1; 512], false)?;
                }
                peer.fall_silent()
            }),
        ),
        (
            "the header of a chunk by drops",
            Arc::new(|peer| {
                let request = peer.first_read()?;
                peer.drip(&chunk_header(1, request.cookie, false, 520).repeat(99), 2 * PAUSE)
            }),
        ),
        (
            "an error by drops",
            Arc::new(|peer| {
                let request = peer.first_read()?;
                peer.chunk_header(ChunkType::Error as u16, request.cookie, true, 4096)?;
                peer.drip(&[0; 4096], PAUSE)
            }),
        ),
    ];
    // They wait more than they work.
    std::thread::scope(|scope| {
        for (name, script) in attacks {
            scope.spawn(move || {
                let mut battery = Battery { options: &["--nbd-timeout", "1"], ..Battery::new() };
                battery.run(name, ("Io", vain), move |peer| script(peer));
            });
        }
    });
}

/// It takes longer than the whole patience, at four times the least rate.
#[test]
fn a_slow_server_that_gets_on_is_waited_for() {
    let account = Account::new();
    let stage = Stage::new(&account);
    const SMALL: u64 = 12 << 10;
    stage.play(Arc::new(|peer: &mut Peer| {
        let content = content();
        let pause = Duration::from_millis(250);
        peer.greet()?;
        for _ in 0..3 {
            let option = peer.option()?;
            std::thread::sleep(pause);
            peer.answer(option, SMALL)?;
        }
        loop {
            let request = peer.request()?;
            std::thread::sleep(pause);
            match request.command {
                command::DISC => return Ok(()),
                command::BLOCK_STATUS => peer.status(&request, CONTEXT, &[(request.length as u32, 0)])?,
                // 4 KiB a second.
                _ => {
                    for (n, at) in (0..request.length).step_by(1024).enumerate() {
                        std::thread::sleep(pause);
                        let page = &content[(request.offset + at) as usize..][..1024];
                        peer.data(&request, request.offset + at, page, n as u64 == request.length / 1024 - 1)?;
                    }
                }
            }
        }
    }));
    account.sealdisk(&["import", &stage.uri(), "disk", "--nbd-timeout", "3"]);
    assert!(content_of(&account, "disk") == content()[..SMALL as usize]);
}

#[test]
fn ctrl_c_is_heard_while_a_server_is_silent() {
    let account = Account::new();
    let stage = Stage::new(&account);
    let (sender, receiver) = std::sync::mpsc::channel();
    for silent in [0, 1, 2] {
        let sender = sender.clone();
        stage.play(Arc::new(move |peer: &mut Peer| {
            match silent {
                0 => {}
                1 => peer.until(OptionType::Go, SIZE)?,
                _ => peer.first_read().map(drop)?,
            }
            let _ = sender.send(());
            peer.fall_silent()
        }));
        let uri = stage.uri();
        let running = Running::start(account.command().args(["import", &uri, "disk", "--json"]));
        receiver.recv_timeout(Duration::from_secs(60)).expect("the server is asked");
        running.signal(Signal::INT);
        // Without it: an error of the server, after a minute.
        let document = failure_of(&running.end());
        assert_eq!(document["error"]["kind"], "Cancelled", "{document}");
    }
    account.sealdisk(&["delete", "disk", "--yes"]);
    assert_eq!(account.json(&["list"]), serde_json::json!([]));
}

#[test]
fn a_good_server_in_every_way_that_the_protocol_allows() {
    let account = Account::new();
    let stage = Stage::new(&account);
    let simple: Script = Arc::new(|peer| {
        let content = content();
        peer.greet()?;
        let option = peer.option()?;
        peer.reply(option, ReplyType::ErrUnsup, b"no")?;
        let option = peer.option()?;
        peer.answer(option, SIZE)?;
        loop {
            let request = peer.request()?;
            if request.command != command::READ {
                return Ok(());
            }
            peer.simple(request.cookie, 0, &content[request.offset as usize..][..request.length as usize])?;
        }
    });
    // Chunks from the last to the first, holes among them, of several requests in turn, and an end of its own.
    let shuffled: Script = Arc::new(|peer| {
        let content = content();
        peer.attach(SIZE)?;
        let mut open = Vec::new();
        loop {
            let request = peer.request()?;
            match request.command {
                command::BLOCK_STATUS => peer.status(&request, CONTEXT, &[(MIB as u32 / 2, 0)])?,
                command::READ => {
                    open.push(request);
                    // Two are always under way, but for the last.
                    if open.len() < 2 && request.offset + request.length < SIZE {
                        continue;
                    }
                    for request in open.drain(..).rev() {
                        for at in (0..request.length).step_by(4096).collect::<Vec<_>>().into_iter().rev() {
                            let len = (request.length - at).min(4096);
                            let bytes = &content[(request.offset + at) as usize..][..len as usize];
                            if bytes.iter().all(|&byte| byte == 0) {
                                peer.hole(&request, request.offset + at, len as u32, false)?;
                            } else {
                                peer.data(&request, request.offset + at, bytes, false)?;
                            }
                        }
                        peer.chunk(ChunkType::None, request.cookie, true, &[])?;
                    }
                }
                _ => return Ok(()),
            }
        }
    });
    for (name, script) in [("simple", simple), ("shuffled", shuffled), ("honest", Arc::new(honest))] {
        stage.play(script);
        account.sealdisk(&["import", &stage.uri(), name]);
        assert!(content_of(&account, name) == content(), "{name}");
    }
}
