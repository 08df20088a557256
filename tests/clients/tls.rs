//! The recipes of docs/nbd.md for TLS, run as they stand there, but on a port of loopback.

use std::fs;

use crate::support::{Account, MIB, program, run};

/// The blocks of the chapter: how certificates are made, and a server with its clients.
fn blocks() -> Vec<String> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/nbd.md")).unwrap();
    let chapter = page.split_once("\n## TLS\n").unwrap().1.split("\n## ").next().unwrap().to_owned();
    chapter.split("```").skip(1).step_by(2).filter(|block| block.starts_with('\n')).map(str::to_owned).collect()
}

#[test]
fn the_recipes_for_tls_work_as_they_stand_in_the_manual() {
    let account = Account::new();
    account.create("NAME", MIB);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let blocks = blocks();
    assert_eq!(blocks.len(), 2);
    let (certificates, session) = (&blocks[0], &blocks[1]);
    let (serve, clients) = session.split_once("\nnbdinfo").unwrap();
    let on_loopback = |text: &str| {
        text.replace("0.0.0.0:10809", &format!("127.0.0.1:{port}"))
            .replace("localhost/NAME", &format!("localhost:{port}/NAME"))
            .replace("port=10809", &format!("port={port}"))
    };
    assert_ne!(on_loopback(serve), serve);
    let sealdisk = account.command();
    let words: Vec<_> = sealdisk.get_args().map(|word| word.to_str().unwrap()).collect();
    let script = format!(
        "{certificates}
         sealdisk() {{ exec {program} {words} \"$@\"; }}
         {serve} &
         server=$!
         for _ in $(seq 300); do [ -S {account}/nbd.sock ] && break; sleep 0.1; done
         nbdinfo{clients}
         cmp disk.img <(head -c {MIB} /dev/zero)
         kill $server; wait $server",
        program = env!("CARGO_BIN_EXE_sealdisk"),
        words = words.join(" "),
        serve = on_loopback(serve.trim()),
        clients = on_loopback(clients),
        account = account.dir().display(),
    );
    let folder = account.scratch("tls");
    fs::create_dir(&folder).unwrap();
    let mut bash = program("bash");
    bash.args(["-euc", &script]).current_dir(&folder).env("XDG_CONFIG_HOME", account.scratch("config"));
    let done = run(&mut bash);
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(said.contains("with TLS") && said.contains("read 4096/4096 bytes"), "{said}");
}
