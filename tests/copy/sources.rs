//! What is taken for an image, what is not, and what is said of it.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Running, content, failure, image, midway, noise, shell, text};
use crate::support::{Account, MIB, program, run, stdout_of};

/// The hint of a refusal, on standard error.
fn hint(account: &Account, arguments: &[&str]) -> String {
    let output = run(account.command().args(arguments));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    let hint = said.lines().find_map(|line| line.strip_prefix("hint: "));
    hint.unwrap_or_else(|| panic!("{arguments:?}: no hint: {said}")).to_owned()
}

/// A differencing VHD over a neighbour, which holds 'S' alone, under a name that says nothing.
fn guests_vhd(account: &Account) -> PathBuf {
    let (raw, parent, child) =
        (account.scratch("secret.img"), account.scratch("secret.vhd"), account.scratch("guest.vhd"));
    fs::write(&raw, vec![b'S'; MIB as usize]).unwrap();
    account.sealdisk(&["vhd", "convert", text(&raw), text(&parent), "--to", "dynamic"]);
    account.sealdisk(&["vhd", "create", text(&child), "--parent", text(&parent)]);
    let guest = account.scratch("guest.img");
    fs::rename(child, &guest).unwrap();
    guest
}

#[test]
fn what_a_guest_wrote_into_a_raw_image_makes_no_vhd_of_it() {
    let account = Account::new();
    let guest = guests_vhd(&account);
    let out = account.scratch("out.img");
    let cases: [(&[&str], &str); 4] = [
        (&["create", "disk", "--base", text(&guest)], "--base-format"),
        (&["import", text(&guest), "disk"], "--format"),
        (&["vhd", "convert", text(&guest), text(&out), "--to", "raw"], "--from"),
        (&["quickstart", text(&guest)], "sealdisk create NAME --base IMAGE --base-format"),
    ];
    for (arguments, option) in cases {
        let hint = hint(&account, arguments);
        for format in ["raw", "vhd"] {
            assert!(hint.contains(&format!("`{option} {format}`")), "{arguments:?}: {hint}");
        }
    }
    assert_eq!(account.json(&["list"]), serde_json::json!([]));
    assert!(!out.exists());
    // Each of the two words is taken, and every file that is read is listed.
    let raw = account.json(&["import", text(&guest), "raw", "--format", "raw"]);
    assert_eq!(raw["files"], serde_json::json!([guest]));
    assert!(content(&account, "raw") == fs::read(&guest).unwrap());
    let files = serde_json::json!([guest, account.scratch("secret.vhd")]);
    assert_eq!(account.json(&["import", text(&guest), "vhd", "--format", "vhd"])["files"], files);
    assert!(content(&account, "vhd") == vec![b'S'; MIB as usize]);
    assert_eq!(account.json(&["create", "over", "--base", text(&guest), "--base-format", "vhd"])["files"], files);
    let converted = account.json(&["vhd", "convert", text(&guest), text(&out), "--to", "raw", "--from", "vhd"]);
    assert_eq!((&converted["files"], &converted["from"]), (&files, &"vhd".into()));
    let shown = account.sealdisk(&["create", "shown", "--base", text(&guest), "--base-format", "vhd"]);
    assert!(shown.contains("guest.img") && shown.contains("secret.vhd"), "{shown}");
}

#[test]
fn a_stream_is_raw_unless_it_is_said_to_be_a_vhd() {
    let account = Account::new();
    let raw = image(&account, "image.img", 2 * MIB, &[(0, 4096)]);
    let fixed = account.scratch("fixed.vhd");
    account.sealdisk(&["vhd", "convert", text(&raw), text(&fixed), "--to", "fixed"]);
    let stream = |more: &str| run(&mut shell(&account, &format!("$sealdisk import - disk {more} < {}", text(&fixed))));
    let refused = stream("");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("`--format raw`") && said.contains("`--format vhd`"), "{said}");
    // It goes on with what is there.
    assert!(stream("--format vhd").status.success());
    assert!(content(&account, "disk") == fs::read(&raw).unwrap());
}

#[test]
fn what_is_no_disk_is_refused_with_a_command_that_makes_one_of_the_same_size() {
    let account = Account::new();
    // No whole number of cylinders, nor of MiB.
    let raw = image(&account, "disk.img", 8 * MIB + 512, &[(0, 4096), (8 * MIB, 512)]);
    let name = |ending: &str| account.scratch(&format!("disk.{ending}"));
    let mut sources = Vec::new();
    for format in ["qcow2", "qcow", "vmdk", "vdi", "vhdx", "qed", "parallels"] {
        let path = name(format);
        stdout_of(program("qemu-img").args(["convert", "-f", "raw", "-O", format, text(&raw), text(&path)]));
        sources.push(path);
    }
    for (pack, ending) in [("gzip -c", "gz"), ("bzip2 -c", "bz2"), ("xz -0 -c", "xz")] {
        stdout_of(&mut shell(&account, &format!("{pack} disk.img > disk.{ending}")));
        sources.push(name(ending));
    }
    stdout_of(&mut shell(&account, "tar -cf disk.tar disk.img && mkdir unpacked"));
    sources.push(name("tar"));
    for (n, source) in sources.iter().enumerate() {
        // Whatever it is called.
        let misnamed = account.scratch(&format!("misnamed-{n}.img"));
        fs::copy(source, &misnamed).unwrap();
        for path in [source, &misnamed] {
            let hint = hint(&account, &["import", text(path), "disk"]);
            assert!(hint.contains("`--format raw`"), "{}: {hint}", path.display());
            let command = hint.split('`').nth(1).expect("a command");
            let out = account.scratch("out.img");
            let (command, made) = match command.strip_prefix("tar ") {
                Some(rest) => (format!("cd unpacked && tar {rest}"), account.scratch("unpacked/disk.img")),
                None => (command.replace("OUT", text(&out)), out.clone()),
            };
            stdout_of(&mut shell(&account, &command.replace("IN", text(path))));
            account.sealdisk(&["import", text(&made), "disk"]);
            let found = content(&account, "disk");
            let expected = fs::read(&raw).unwrap();
            // These formats know no sizes but whole clusters.
            let whole = found.len() == expected.len() || hint.contains("vhdx") || hint.contains("vdi");
            assert!(whole && found.starts_with(&expected), "{}: {}", path.display(), found.len());
            account.sealdisk(&["delete", "disk", "--yes"]);
            let _ = (fs::remove_file(&out), fs::remove_file(account.scratch("unpacked/disk.img")));
        }
        assert!(hint(&account, &["create", "disk", "--base", text(source)]).contains("`--base-format raw`"));
        let odd = fs::metadata(source).unwrap().len().next_multiple_of(512);
        File::options().write(true).open(source).unwrap().set_len(odd).unwrap();
        account.sealdisk(&["import", text(source), "as-it-is", "--format", "raw", "--size", "64M"]);
        assert!(content(&account, "as-it-is").starts_with(&fs::read(source).unwrap()[..4096]));
        account.sealdisk(&["delete", "as-it-is", "--yes"]);
    }
}

#[test]
fn a_compressed_stream_is_refused_at_its_beginning() {
    let account = Account::new();
    image(&account, "disk.img", 2 * MIB, &[(0, 4096)]);
    let refused = run(&mut shell(&account, "xz -0 -c disk.img | $sealdisk import - disk"));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("`xz -dc | sealdisk import - NAME`"), "{said}");
    assert_eq!(account.json(&["list"]), serde_json::json!([]));
}

#[test]
fn hints_about_vhds_name_options_of_the_verb() {
    let account = Account::new();
    for folder in ["p", "q"] {
        fs::create_dir(account.scratch(folder)).unwrap();
    }
    let path = |name: &str| account.scratch(name);
    account.sealdisk(&["vhd", "create", text(&path("p/base.vhd")), "--size", "4M", "--type", "dynamic"]);
    account.sealdisk(&["vhd", "create", text(&path("p/child.vhd")), "--parent", text(&path("p/base.vhd"))]);
    fs::rename(path("p/child.vhd"), path("q/child.vhd")).unwrap();
    let cut = path("cut.vhd");
    fs::copy(path("p/base.vhd"), &cut).unwrap();
    let file = File::options().write(true).open(&cut).unwrap();
    file.set_len(file.metadata().unwrap().len() - 512).unwrap();
    fs::write(path("raw.vhd"), vec![0; 1 << 20]).unwrap();
    for (verb, image, words) in [
        (&["create", "disk", "--base"][..], "q/child.vhd", "--base-root"),
        (&["create", "disk", "--base"], "cut.vhd", "--base-recover"),
        (&["create", "disk", "--base"], "raw.vhd", "--base-format raw"),
        (&["vhd", "info"], "q/child.vhd", "--parent-root"),
        (&["vhd", "info"], "cut.vhd", "--recover"),
        (&["vhd", "check"], "cut.vhd", "--recover"),
    ] {
        let image = path(image);
        let hint = hint(&account, &[verb, &[text(&image)]].concat());
        assert!(hint.contains(&format!("`{words}")), "{verb:?}: {hint}");
    }
    for (image, words) in [("q/child.vhd", "--parent-root"), ("cut.vhd", "--recover"), ("raw.vhd", "--format raw")] {
        let image = path(image);
        assert!(hint(&account, &["import", text(&image), "disk"]).contains(&format!("`{words}")));
        let words = words.replace("--format", "--from");
        let convert = ["vhd", "convert", text(&image), "out.vhd", "--to", "fixed"];
        assert!(hint(&account, &convert).contains(&format!("`{words}")));
    }
    // What recovers has no need of the hint.
    let out = path("recovered.img");
    account.sealdisk(&["create", "disk", "--base-recover", "--base", text(&cut)]);
    account.sealdisk(&["export", "disk", text(&out), "--to", "raw"]);
    // These have no such options.
    for verb in [&["vhd", "create", "new.vhd", "--parent"][..], &["vhd", "repair"]] {
        let output = run(account.command().args(verb).arg(&cut));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("--recover"), "{verb:?}: {said}");
    }
}

#[test]
fn a_name_that_disagrees_with_the_format_is_told() {
    let account = Account::new();
    account.create("disk", MIB);
    let told = |arguments: &[&str]| {
        let output = run(account.command().args(arguments));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        said.lines().any(|line| line.starts_with("note: ") && line.contains("called"))
    };
    let path = |name: &str| account.scratch(name).display().to_string();
    assert!(told(&["export", "disk", &path("a.img")]));
    assert!(told(&["export", "disk", &path("b.vhd"), "--to", "raw"]));
    assert!(!told(&["export", "disk", &path("c.vhd")]));
    assert!(!told(&["export", "disk", &path("c.img"), "--to", "raw"]));
    assert!(told(&["vhd", "convert", &path("c.vhd"), &path("d.raw"), "--to", "dynamic"]));
    fs::copy(path("c.img"), path("flat.vmdk")).unwrap();
    assert!(told(&["import", &path("flat.vmdk"), "i1"]));
    assert!(told(&["import", &path("a.img"), "i2", "--format", "vhd"]));
    assert!(told(&["create", "i3", "--base", &path("b.vhd"), "--base-format", "raw"]));
    assert!(!told(&["import", &path("c.img"), "i4"]));
}

#[test]
fn a_base_whose_path_is_no_text_is_refused_and_can_be_imported() {
    let account = Account::new();
    let raw = image(&account, "image.img", MIB, &[(0, 512)]);
    let odd = account.scratch("").join(std::ffi::OsStr::from_bytes(b"od\xFFd.img"));
    fs::copy(&raw, &odd).unwrap();
    let output = run(account.command().args(["create", "disk", "--base"]).arg(&odd));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not UTF-8") && said.contains("sealdisk import"), "{said}");
    let output = run(account.command().arg("import").arg(&odd).arg("disk"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(content(&account, "disk") == fs::read(&raw).unwrap());
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_leaves_an_account_is_its_owners_alone() {
    let account = Account::new();
    let raw = account.scratch("image.img");
    fs::write(&raw, noise(5, 24 << 20)).unwrap();
    account.sealdisk(&["import", text(&raw), "disk"]);
    let under = |mask: &str, line: &str| stdout_of(&mut shell(&account, &format!("umask {mask}; {line}")));
    for (mask, tag) in [("022", "a"), ("000", "b")] {
        under(mask, &format!("$sealdisk export disk {tag}.vhd; $sealdisk export disk {tag}.img --to raw"));
        under(mask, &format!("$sealdisk vhd convert {tag}.vhd {tag}d.vhd --to dynamic"));
        under(
            mask,
            &format!("$sealdisk vhd create {tag}n.vhd --size 1M; $sealdisk vhd create {tag}c.vhd --parent {tag}d.vhd"),
        );
        for name in ["", "d", "n", "c"] {
            let path = account.scratch(&format!("{tag}{name}.vhd"));
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
        assert_eq!(mode(&account.scratch(&format!("{tag}.img"))), 0o600);
    }
    // One that is mended or resized in place keeps its mode: it is not new.
    let shared = account.scratch("a.vhd");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o640)).unwrap();
    account.sealdisk(&["vhd", "resize", text(&shared), "25M"]);
    assert_eq!(mode(&shared), 0o640);
    // While it grows, and where an unfinished one of another mode is there already.
    let part = account.scratch("grows.img.sealdisk-part");
    fs::write(&part, "left over").unwrap();
    fs::set_permissions(&part, fs::Permissions::from_mode(0o666)).unwrap();
    let start = || {
        let mut line = shell(&account, "umask 000; exec $sealdisk export disk grows.img --to raw");
        Running::start(&mut line)
    };
    let grows = || fs::metadata(&part).is_ok_and(|part| part.len() > 1 << 20);
    let undo = || {
        let _ = fs::remove_file(account.scratch("grows.img"));
    };
    let running = midway(start, grows, undo);
    assert_eq!(mode(&part), 0o600);
    running.signal(rustix::process::Signal::CONT);
    assert!(running.end().status.success());
    assert_eq!(mode(&account.scratch("grows.img")), 0o600);
}

#[test]
fn a_refused_export_speaks_of_no_unfinished_file_where_none_is() {
    let account = Account::new();
    account.create("disk", MIB);
    let path = account.scratch("out.vhd");
    let document = failure(&account, &["export", "disk", text(&path), "--to", "dynamic", "--block-size", "3000"]);
    assert_eq!(document["unfinished"], serde_json::Value::Null, "{document}");
    let output =
        run(account.command().args(["export", "disk", text(&path), "--to", "dynamic", "--block-size", "3000"]));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("-part"));
    assert!(!account.scratch("out.vhd.sealdisk-part").exists());
}

/// A loop device over a file; needs root.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Self {
        let device = stdout_of(program("losetup").args(["--find", "--show", text(file)]));
        Self(device.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_copied_and_is_no_base() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root makes a loop device");
        return;
    }
    let account = Account::new();
    let raw = image(&account, "image.img", 6 * MIB, &[(0, 4096), (5 * MIB, 8192)]);
    let device = Loop::over(&raw);
    let expected = fs::read(&raw).unwrap();
    for (name, served) in [("rest", false), ("served", true)] {
        let server = served.then(|| account.serve());
        let document = account.json(&["import", &device.0, name]);
        assert_eq!((&document["size_bytes"], &document["verified"]), (&(6 * MIB).into(), &true.into()));
        assert!(document["written_bytes"].as_u64() < Some(MIB), "zeros are not written: {document}");
        assert!(content(&account, name) == expected);
        assert!(server.is_none_or(|server| server.terminate().success()));
    }
    let out = account.scratch("out.vhd");
    account.sealdisk(&["vhd", "convert", &device.0, text(&out), "--to", "fixed"]);
    account.sealdisk(&["import", text(&out), "converted"]);
    assert!(content(&account, "converted") == expected);
    let hint = hint(&account, &["create", "disk", "--base", &device.0]);
    assert!(hint.contains("`sealdisk import DEVICE NAME`"), "{hint}");
    drop(device);
    // While something holds it, that is said.
    let file_system = account.scratch("files.img");
    crate::support::file_system_image(&file_system, 8 * MIB);
    let device = Loop::over(&file_system);
    let folder = account.scratch("mounted");
    fs::create_dir(&folder).unwrap();
    stdout_of(program("mount").args(["-o", "ro", &device.0, text(&folder)]));
    let output = run(account.command().args(["import", &device.0, "mounted"]));
    stdout_of(program("umount").arg(&folder));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("is in use"), "{said}");
}

#[test]
fn a_base_can_be_read_whole_when_the_disk_is_made() {
    let account = Account::new();
    let raw = image(&account, "image.img", 20 * MIB, &[(0, 4096)]);
    account.sealdisk(&["create", "disk", "--base", text(&raw), "--verify"]);
    let shown = account.json(&["verify", "disk"]);
    assert_eq!(shown["base"]["files"][0]["sha256"], crate::support::sha256(&raw), "{shown}");
    // A byte that no sample covers.
    use std::os::unix::fs::FileExt;
    File::options().write(true).open(&raw).unwrap().write_all_at(b"x", 5_000_000).unwrap();
    assert_eq!(failure(&account, &["verify", "disk", "--base"])["error"]["kind"], "BaseChanged");
}
