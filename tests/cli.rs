//! The command line from outside: field names that others build on, exit codes, errors that say what is wrong.

use anyhow::{Context, Result, ensure};
use lynceus_lab::images::{self, Frozen};
use lynceus_lab::{Guest, KernelVersion, Paging, Spec};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

const CLEAN: i32 = 0;
const FINDINGS: i32 = 1;
const ERROR: i32 = 2;
const INCOMPLETE: i32 = 3;

fn lynceus(profiles: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lynceus"));
    command.args(args).env("LYNCEUS_PROFILES", profiles).output().expect("lynceus starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

/// The frozen guest that most of these tests look at.
fn frozen() -> &'static Frozen {
    static FROZEN: OnceLock<Frozen> = OnceLock::new();
    FROZEN.get_or_init(|| {
        let spec = Spec { vcpus: 2, ..Spec::new(KernelVersion::V6_12, Paging::Four) };
        images::frozen(&spec).expect("a frozen guest")
    })
}

fn image() -> &'static str {
    frozen().ram.to_str().expect("a path in UTF-8")
}

/// The rows of a listing, whose summary on standard error must say that it is complete.
fn rows(profiles: &Path, args: &[&str]) -> Result<Vec<Value>> {
    let output = lynceus(profiles, &[&["--json"], args].concat());
    ensure!(output.status.code() == Some(CLEAN), "{args:?}: {}: {}", output.status, text(&output));
    let rows = json_lines(output.stdout)?;
    let summary = json_lines(output.stderr)?.pop().context("no summary")?;
    ensure!(summary["complete"] == true && summary["count"] == rows.len(), "{args:?}: {summary}");
    Ok(rows)
}

fn json_lines(bytes: Vec<u8>) -> Result<Vec<Value>> {
    let lines = String::from_utf8(bytes)?;
    Ok(lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Every row has these fields; more may be added, none may go.
fn has(rows: &[Value], fields: &str) -> Result<()> {
    ensure!(!rows.is_empty(), "no rows with {fields}");
    for row in rows {
        let missing: Vec<&str> = fields.split(", ").filter(|field| row.get(field).is_none()).collect();
        ensure!(missing.is_empty(), "{missing:?} not in {row}");
    }
    Ok(())
}

#[test]
fn fields_that_others_build_on() -> Result<()> {
    let store = tempfile::tempdir()?;
    let list = |command| rows(store.path(), &[command, image()]);
    let ps = list("ps")?;
    has(
        &ps,
        "pid, tgid, ppid, comm, exe, cmdline, uid, gid, state, start_time, kthread, container, namespaces",
    )?;
    has(&list("sockets")?, "proto, local, lport, remote, rport, state, pid, comm")?;
    has(&list("modules")?, "name, base, size_bytes, refcount")?;
    has(&list("maps")?, "pid, start, end, perms, path")?;
    has(&list("files")?, "pid, comm, fd, kind, path")?;
    has(&list("mounts")?, "namespace, mountpoint, fstype, source, options")?;
    has(&list("net")?, "namespace, name, mac, mtu, addresses")?;
    has(&list("dmesg")?, "sequence, time_ns, level, text")?;
    let bpf = list("bpf")?;
    has(&bpf, "id, type, name, tag, attached_to, pinned_at")?;
    let pinned: Vec<&Value> = bpf.iter().filter(|row| row["pinned_at"] != json!([])).collect();
    ensure!(pinned.len() == 1 && pinned[0]["pinned_at"] == json!(["/sys/fs/bpf/lab-filter"]), "{pinned:?}");
    ensure!(pinned[0]["type"] == "socket_filter", "{pinned:?}");

    let container = ps.iter().find(|row| row["comm"] == "lab-container").context("no lab-container")?;
    let id = container["container"].as_str().context("no container id")?;
    ensure!(lynceus_lab::scenery::CONTAINER_CGROUP.ends_with(id) && !id.is_empty(), "container {id}");
    let threads = rows(store.path(), &["ps", "-T", image()])?;
    ensure!(threads.len() > ps.len(), "{} threads of {} processes", threads.len(), ps.len());
    let told: Vec<u32> = frozen().truth.pids();
    ensure!(told.len() == ps.len(), "{} processes, the guest told {}", ps.len(), told.len());
    Ok(())
}

#[test]
fn tables_for_people_say_how_much_was_read() -> Result<()> {
    let store = tempfile::tempdir()?;
    for command in [
        "ps", "tree", "modules", "maps", "files", "sockets", "mounts", "net", "dmesg", "bpf", "info", "check",
    ] {
        let output = lynceus(store.path(), &[command, image()]);
        let said = text(&output);
        // The image holds oddities on purpose.
        let expected = if command == "check" { FINDINGS } else { CLEAN };
        ensure!(output.status.code() == Some(expected), "{command}: {}: {said}", output.status);
        ensure!(!said.contains('\x1b'), "{command}: colours without a terminal");
        ensure!(command == "info" || said.contains("nothing left unread"), "{command}: {said}");
    }
    let tree = text(&lynceus(store.path(), &["tree", image()]));
    let inner = tree.lines().find(|line| line.contains("lab-inner")).context("no lab-inner")?;
    let outer = tree.lines().find(|line| line.contains("lab-container")).context("no lab-container")?;
    let depth = |line: &str, name: &str| line.find(name).unwrap_or_default();
    ensure!(depth(inner, "lab-inner") > depth(outer, "lab-container"), "not a tree:\n{tree}");
    Ok(())
}

#[test]
fn a_known_build_is_attached_to_from_the_store() -> Result<()> {
    let store = tempfile::tempdir()?;
    let source = || -> Result<String> {
        let output = lynceus(store.path(), &["--json", "info", image()]);
        let info: Value = serde_json::from_slice(&output.stdout)?;
        Ok(info["profile_source"].as_str().unwrap_or_default().to_owned())
    };
    ensure!(source()? == "the guest's memory");
    ensure!(source()? == "profile cache");
    let listed = rows(store.path(), &["profile", "list"])?;
    ensure!(listed.len() == 1 && listed[0]["origin"] == "learned", "{listed:?}");
    Ok(())
}

/// Errors are one line that names the file and says what is wrong.
#[test]
fn what_cannot_be_looked_at_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str, bytes: &[u8]| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes)?;
        Ok(path.display().to_string())
    };
    let noise: Vec<u8> =
        (0..2u64 << 20).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    for (target, wanted) in [
        (folder.path().display().to_string(), "directory"),
        (folder.path().join("none").display().to_string(), "No such file"),
        (file("empty", b"")?, "empty"),
        (file("text", b"not a dump\n")?, "not a memory dump"),
        (file("zeros", &vec![0; 2 << 20])?, "no Linux kernel"),
        (file("ones", &vec![0xff; 2 << 20])?, "no Linux kernel"),
        (file("noise", &noise)?, "no Linux kernel"),
        ("no-vm-of-this-name".to_owned(), "no VM is called"),
        ("pid:1".to_owned(), "pid:1"),
    ] {
        let output = lynceus(folder.path(), &["ps", &target]);
        let said = text(&output);
        ensure!(output.status.code() == Some(ERROR), "{target}: {}: {said}", output.status);
        ensure!(output.stdout.is_empty(), "{target}: {said}");
        ensure!(said.contains(wanted) && said.starts_with("lynceus: "), "{target}: {said}");
    }
    Ok(())
}

/// Evidence to keep: compressed, and with a file beside it that says what it is.
#[test]
fn a_compressed_dump_says_what_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let dump = folder.path().join("evidence.avml");
    let path = dump.display().to_string();
    let output =
        lynceus(folder.path(), &["--json", "dump", "--format", "avml", "--manifest", image(), &path]);
    ensure!(output.status.code() == Some(CLEAN), "{}: {}", output.status, text(&output));
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let file = std::fs::read(&dump)?;
    let manifest = std::fs::read(folder.path().join("evidence.avml.manifest.json"))?;
    let manifest: Value = serde_json::from_slice(&manifest)?;
    let digest = format!("{:x}", <sha2::Sha256 as sha2::Digest>::digest(&file));
    ensure!(manifest["sha256"] == digest && told["sha256"] == digest, "{manifest:#} {told:#}");
    ensure!(manifest["file_bytes"] == file.len() && manifest["file"] == "evidence.avml", "{manifest:#}");
    ensure!(manifest["format"] == "avml" && manifest["consistent"] == true, "{manifest:#}");
    let release = manifest["kernel"]["release"].as_str().unwrap_or_default();
    ensure!(release.starts_with("6.12"), "{manifest:#}");
    ensure!((file.len() as u64) < std::fs::metadata(image())?.len() / 2, "{} bytes", file.len());
    // In it is what is in the image.
    let from_dump = rows(folder.path(), &["ps", &path])?;
    ensure!(from_dump == rows(folder.path(), &["ps", image()])?, "{from_dump:#?}");
    Ok(())
}

/// A dump that lacks its end is not called whole, and a look at it ends.
#[test]
fn a_truncated_dump_is_incomplete_or_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let whole = folder.path().join("whole.lime");
    let output = lynceus(folder.path(), &["dump", "--format", "lime", image(), &whole.display().to_string()]);
    ensure!(output.status.code() == Some(CLEAN), "{}", text(&output));
    let len = std::fs::metadata(&whole)?.len();
    for part in [1, 2, 4, 8, 12, 15] {
        let cut = folder.path().join(format!("cut-{part}"));
        std::fs::copy(&whole, &cut)?;
        std::fs::File::options().write(true).open(&cut)?.set_len(len / 16 * part)?;
        let cut = cut.display().to_string();
        // A listing may have all it needs; that the file lacks something is said nevertheless.
        let listing = lynceus(folder.path(), &["ps", &cut]);
        let code = listing.status.code();
        ensure!([Some(CLEAN), Some(ERROR), Some(INCOMPLETE)].contains(&code), "{part}/16: {code:?}");
        ensure!(code == Some(ERROR) || text(&listing).contains("truncated"), "{part}/16: {}", text(&listing));
        // What is hidden may be in what is missing.
        let check = lynceus(folder.path(), &["check", &cut]);
        let code = check.status.code();
        let is_told = code == Some(FINDINGS) && text(&check).contains("INCOMPLETE");
        let is_fine = is_told || [Some(ERROR), Some(INCOMPLETE)].contains(&code);
        ensure!(is_fine, "{part}/16: {code:?}: {}", text(&check));
    }
    Ok(())
}

#[test]
fn a_running_vm_by_name() -> Result<()> {
    let store = tempfile::tempdir()?;
    let name = format!("cli-{}", std::process::id());
    let spec = Spec { name: name.clone(), ..Spec::everyday(KernelVersion::V6_1, Paging::Four) };
    let guest = Guest::boot(&spec)?;
    let vms = rows(store.path(), &["vms"])?;
    let vm = vms.iter().find(|row| row["name"] == name.as_str()).context("not listed")?;
    ensure!(vm["pid"] == guest.pid(), "{vm}");
    ensure!(rows(store.path(), &["ps", &name])?.iter().any(|row| row["comm"] == "lab-plain"));
    let clean = lynceus(store.path(), &["check", &name]);
    ensure!(clean.status.code() == Some(CLEAN), "{}", text(&clean));

    let dump = store.path().join("dump.elf").display().to_string();
    let output = lynceus(store.path(), &["dump", "--pause", &name, &dump]);
    ensure!(output.status.code() == Some(CLEAN), "{}", text(&output));
    ensure!(guest.qmp("query-status", Value::Object(Default::default()))?["status"] == "running");
    let again = lynceus(store.path(), &["dump", &name, &dump]);
    ensure!(again.status.code() == Some(ERROR), "overwrote a dump: {}", text(&again));
    ensure!(rows(store.path(), &["ps", &dump])?.iter().any(|row| row["comm"] == "lab-plain"));

    let pid = guest.truth()?.task_named("intruder")?.pid.to_string();
    guest.hide(&[("hide_self", "1"), ("hide_pid", &pid)])?;
    let found = lynceus(store.path(), &["--json", "check", &name]);
    ensure!(found.status.code() == Some(FINDINGS), "{}", text(&found));
    let alerts = json_lines(found.stdout)?;
    ensure!(alerts.len() == 2, "{alerts:?}");
    let ps = rows(store.path(), &["ps", &name])?;
    let hidden: Vec<&Value> = ps.iter().filter(|row| row["hidden"] == true).collect();
    ensure!(hidden.len() == 1 && hidden[0]["comm"] == "intruder", "{hidden:?}");
    has(&alerts, "id, vm, detector, technique, severity, summary, subject, seen_in, missing_from")?;
    Ok(())
}

#[test]
fn completions_and_man_pages() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for shell in ["bash", "zsh", "fish"] {
        let output = lynceus(folder.path(), &["completions", shell]);
        ensure!(output.status.success() && text(&output).contains("sockets"), "{shell}");
    }
    let man = folder.path().join("man");
    let output = lynceus(folder.path(), &["man", &man.display().to_string()]);
    ensure!(output.status.success(), "{}", text(&output));
    let page = std::fs::read_to_string(man.join("lynceus.1"))?;
    ensure!(page.starts_with(".ie") && page.contains("TARGET"), "{page}");
    ensure!(man.join("lynceus-ps.1").is_file());
    Ok(())
}

#[test]
fn scan_says_where_a_rule_matches_and_which_rules_are_broken() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (profiles, rules) = (folder.path().join("profiles"), folder.path().join("rules"));
    std::fs::create_dir(&rules)?;
    let path = rules.display().to_string();
    let nothing = lynceus(&profiles, &["scan", image(), "--rules", &path]);
    ensure!(
        nothing.status.code() == Some(ERROR) && text(&nothing).contains("no rule files"),
        "{}",
        text(&nothing)
    );
    std::fs::write(
        rules.join("none.yar"),
        "rule none { strings: $a = \"no guest has this 8f2e\" condition: $a }",
    )?;
    let clean = lynceus(&profiles, &["scan", image(), "--rules", &path]);
    ensure!(
        clean.status.code() == Some(CLEAN) && text(&clean).contains("1 rules of 1 files"),
        "{}",
        text(&clean)
    );
    // The lab's processes carry their names as arguments.
    let rule = "rule name : lab { meta: severity = \"low\" strings: $a = \"lab-plain\" condition: $a }";
    std::fs::write(rules.join("name.yar"), rule)?;
    let task = frozen().truth.task_named("lab-plain")?.pid.to_string();
    let args = ["--json", "scan", image(), "--rules", &path, "--pid", &task, "--scope", "process"];
    let found = lynceus(&profiles, &args);
    ensure!(found.status.code() == Some(FINDINGS), "{}", text(&found));
    let rows = json_lines(found.stdout)?;
    has(&rows, "id, time_ms, vm, detector, technique, severity, summary, subject, rule")?;
    for row in &rows {
        ensure!(row["rule"]["rule"] == "name" && row["subject"]["comm"] == "lab-plain", "{row}");
        ensure!(row["rule"]["strings"][0]["bytes"] == "6c61622d706c61696e", "{row}");
    }
    std::fs::write(rules.join("bad.yar"), "rule bad {\n  condition: $x\n}")?;
    let incomplete = lynceus(
        &profiles,
        &[
            "scan",
            image(),
            "--rules",
            &rules.join("none.yar").display().to_string(),
            &rules.join("bad.yar").display().to_string(),
        ],
    );
    ensure!(
        incomplete.status.code() == Some(INCOMPLETE) && text(&incomplete).contains("bad.yar: 2:"),
        "{}",
        text(&incomplete)
    );
    Ok(())
}

#[test]
fn scan_takes_hashes_paths_and_several_targets_and_repeats_itself() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (profiles, list) = (folder.path().join("profiles"), folder.path().join("list"));
    let (rules, list_path) = (folder.path().join("elf.yar"), list.display().to_string());
    std::fs::write(&rules, "rule elf { condition: uint32(0) == 0x464c457f and filesize > 1KB }")?;
    let rules = rules.display().to_string();
    std::fs::write(&list, "deny 12\n")?;
    let bad = lynceus(&profiles, &["scan", image(), "--hashes", &list_path]);
    ensure!(bad.status.code() == Some(ERROR) && text(&bad).contains("list:1: no SHA-256"), "{}", text(&bad));
    let args = ["--json", "scan", image(), "--rules", &rules, "--path", "/bin/busybox"];
    let rows = json_lines(lynceus(&profiles, &args).stdout)?;
    ensure!(rows.len() == 1 && rows[0]["subject"]["path"] == "/bin/busybox", "{rows:?}");
    ensure!(rows[0]["rule"]["sha256"] == rows[0]["subject"]["sha256"], "{rows:?}");
    let hash = rows[0]["subject"]["sha256"].as_str().context("a hash")?;
    std::fs::write(&list, format!("{hash}  busybox\n"))?;
    let denied = lynceus(&profiles, &["scan", image(), "--hashes", &list_path]);
    ensure!(denied.status.code() == Some(FINDINGS), "{}", text(&denied));
    ensure!(text(&denied).contains("denied by its hash: file /bin/busybox on rootfs"), "{}", text(&denied));
    // Two guests with the same memory, looked at twice: an alert for each, and what was scanned is not scanned again.
    let twin = folder.path().join("twin");
    std::os::unix::fs::symlink(image(), &twin)?;
    let twin = twin.display().to_string();
    let look = ["--path", "/bin/busybox", "--every", "1ms", "--times", "2", "--scope", "files,process"];
    let found = lynceus(&profiles, &[&["scan", image(), &twin, "-r", &rules], &look[..]].concat());
    ensure!(found.status.code() == Some(FINDINGS), "{}", text(&found));
    let told = text(&found);
    ensure!(told.matches("ALERT rule elf matches in file /bin/busybox").count() == 2, "{told}");
    ensure!(told.matches("; 1 findings told before").count() == 2, "{told}");
    ensure!(told.matches("that was scanned before").count() >= 3, "{told}");
    ensure!(told.contains("1 of 1 rules cannot match in memory, which lacks what they need: elf (filesize)"));
    Ok(())
}

#[test]
fn every_detector_explains_itself() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let all = lynceus(folder.path(), &["--json", "explain"]);
    let rows = json_lines(all.stdout)?;
    has(&rows, "detector, technique, about, sees, evaded_by, false_positives, next")?;
    let names: Vec<&str> = rows.iter().filter_map(|row| row["detector"].as_str()).collect();
    let alone = lynceus_scanners::DETECTORS.iter().map(|detector| detector.name);
    let known: Vec<&str> = alone
        .chain([lynceus_scanners::cohort::DETECTOR.name, lynceus_scanners::flows::DETECTOR.name])
        .collect();
    ensure!(names == known, "{names:?}");
    let one = lynceus(folder.path(), &["explain", "hidden_task"]);
    ensure!(one.status.code() == Some(CLEAN) && text(&one).contains("T1014"), "{}", text(&one));
    let none = lynceus(folder.path(), &["explain", "hidden_unicorn"]);
    ensure!(none.status.code() == Some(ERROR) && text(&none).contains("hidden_module"), "{}", text(&none));
    Ok(())
}

#[test]
fn vms_that_come_and_go_are_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let told = folder.path().join("told");
    let mut follower = Command::new(env!("CARGO_BIN_EXE_lynceus"))
        .args(["--json", "vms", "--follow"])
        .stdout(std::fs::File::create(&told)?)
        .spawn()?;
    let name = format!("follow-{}", std::process::id());
    let guest = Guest::boot(&Spec { name: name.clone(), ..Spec::new(KernelVersion::V6_1, Paging::Four) })?;
    let pid = guest.pid();
    let wait = |event: &str| -> Result<()> {
        for _ in 0..100 {
            let found = std::fs::read_to_string(&told)?.lines().any(|line| {
                let row: Value = serde_json::from_str(line).unwrap_or_default();
                row["event"] == event && row["name"] == name.as_str() && row["pid"] == pid
            });
            if found {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        anyhow::bail!("{name} {event}: not told")
    };
    let result = wait("appeared").and_then(|()| {
        drop(guest);
        wait("gone")
    });
    follower.kill()?;
    follower.wait()?;
    result
}
