//! Mounts over what others would see, files without a folder, filters for packets, BPF programs: planted in memory, and bent out of shape.

use crate::hostile::Hostile;
use crate::integrity::findings;
use lynceus_introspect::linux::{BpfProgram, Mount, Protocol, Socket};
use lynceus_introspect::observe::Options;
use lynceus_introspect::{Gva, Partial};
use lynceus_scanners::{Finding, Subject};

fn guests() -> [Hostile; 4] {
    lynceus_lab::KernelVersion::ALL.map(Hostile::of)
}

fn mounts(guest: &Hostile) -> Vec<Mount> {
    let init = guest.task("init");
    let namespace = guest.look(|view| view.namespaces(&init)).expect("its namespaces").mnt_at;
    guest.look(|view| view.mounts(namespace, None)).items
}

fn mount(guest: &Hostile, mountpoint: &str) -> Mount {
    mounts(guest).into_iter().rfind(|mount| mount.mountpoint == mountpoint).expect("a mount of the lab")
}

/// The file that this process has open.
fn open(guest: &Hostile, name: &str, path: &str) -> Gva {
    let task = guest.task(name);
    let files = guest.look(|view| view.files(task.files)).items;
    files.into_iter().find(|file| file.path == path).expect("an open file").file
}

fn socket(guest: &Hostile, name: &str, wanted: impl Fn(&Socket) -> bool) -> Socket {
    let task = guest.task(name);
    guest.look(|view| view.sockets_held(&task)).items.into_iter().find(wanted).expect("a socket")
}

fn only(guest: &Hostile, detector: &str) -> Finding {
    let mut found = findings(guest);
    assert_eq!(found.len(), 1, "{found:#?}");
    let found = found.remove(0);
    assert_eq!(found.detector, detector);
    found
}

type Look = fn(&lynceus_introspect::linux::LinuxGuest, &Options) -> Partial<Finding>;

/// What one detector says of a guest that it cannot read all of.
fn incomplete(guest: &Hostile, look: Look) {
    let attached = guest.attach().expect("its kernel");
    let found = look(&attached.guest, &Options::default());
    assert!(!found.is_complete(), "{:#?}", found.items);
}

/// As `mount --bind /empty /proc/PID` leaves it.
#[test]
fn a_mount_over_the_folder_of_a_process() {
    for mut guest in guests() {
        let (proc, shm) = (mount(&guest, "/proc"), mount(&guest, "/dev/shm"));
        let root = Gva(guest.read_u64(guest.member(proc.at, "mount", "mnt.mnt_root")));
        let tasks = guest.look(|view| view.processes()).items;
        let cached =
            |pid: u32| guest.look(|view| view.lookup(root, pid.to_string().as_bytes())).ok().flatten();
        let (task, entry) = tasks
            .iter()
            .find_map(|(task, _)| Some((task, cached(task.pid)?)))
            .expect("a folder of a process");
        let pid = task.pid;
        let place = |member| guest.member(shm.at, "mount", member);
        let [parent, point] = ["mnt_parent", "mnt_mountpoint"].map(place);
        guest.u64(parent, proc.at.0).u64(point, entry.at.0);
        let found = only(&guest, "covered_path");
        assert!(matches!(found.subject, Subject::Task { pid: told, .. } if told == pid), "{found:?}");
        assert!(found.summary.contains(&format!("/proc/{pid}")), "{}", found.summary);
    }
}

/// As `d_drop` leaves it.
#[test]
fn a_file_that_is_in_no_folder() {
    for mut guest in guests() {
        let file = open(&guest, "lab-files", "/tmp/lab-append.log");
        let entry = guest.look(|view| view.entry_of_file(file)).expect("its entry");
        let hash = guest.member(entry.at, "dentry", "d_hash.pprev");
        guest.u64(hash, 0);
        let found = only(&guest, "hidden_file");
        assert!(
            matches!(&found.subject, Subject::File { path, .. } if path == "/tmp/lab-append.log"),
            "{found:?}"
        );
    }
}

/// The filter of another socket, on one that sees all packets.
#[test]
fn a_filter_on_a_packet_socket() {
    for mut guest in guests() {
        let filtered = socket(&guest, "lab-bpf", |socket| socket.filter.is_some());
        let packets = socket(&guest, "lab-net", |socket| socket.protocol == Protocol::Packet);
        assert_eq!(packets.filter, None);
        let [from, to] = [filtered.at, packets.at].map(|at| guest.member(at, "sock", "sk_filter"));
        let filter = guest.read_u64(from);
        guest.u64(to, filter);
        let found = only(&guest, "packet_socket");
        assert!(matches!(&found.subject, Subject::Task { comm, .. } if comm == "lab-net"), "{found:?}");
    }
}

/// The program that `lab-bpf` holds, made one for packets at a device.
fn for_devices(guest: &mut Hostile) -> BpfProgram {
    let task = guest.task("lab-bpf");
    let mut held = guest.look(|view| view.bpf_held(&task)).items;
    let program = held.pop().expect("a program");
    assert!(held.is_empty(), "{held:?}");
    assert_eq!((program.name.as_str(), program.type_name()), ("lab_filter", "socket_filter"));
    let kind = guest.member(program.at, "bpf_prog", "type");
    guest.u32(kind, 6);
    program
}

/// A program that steers, and a holder that listings leave out. Each by itself is nobody's business.
#[test]
fn a_bpf_program_in_the_hands_of_a_stranger() {
    for mut guest in guests() {
        let task = guest.task("lab-bpf");
        for_devices(&mut guest);
        assert_eq!(findings(&guest), []);
        let mm = guest.look(|view| view.mm(task.mm)).expect("its memory");
        let name = guest.look(|view| view.entry_of_file(mm.exe_file)).expect("its entry").at;
        let name = guest.read_u64(guest.member(name, "dentry", "d_name.name"));
        guest.write(Gva(name), b".");
        let attached = guest.attach().expect("its kernel");
        let found = lynceus_scanners::bpf_attachments(&attached.guest, &Options::default());
        assert!(found.is_complete(), "{:?}", found.gaps);
        let [found] = &found.items[..] else { panic!("{found:?}") };
        assert!(matches!(&found.subject, Subject::Task { comm, .. } if comm == "lab-bpf"), "{found:?}");
        assert!(found.summary.contains("(xdp, \"lab_filter\")"), "{found:?}");
    }
}

#[test]
fn a_bpf_program_that_nobody_holds() {
    for mut guest in guests() {
        let program = for_devices(&mut guest);
        let task = guest.task("lab-bpf");
        let files = guest.look(|view| view.files(task.files)).items;
        let file = files.iter().find(|file| file.private == program.at).expect("its file");
        let private = guest.member(file.file, "file", "private_data");
        guest.u64(private, 0);
        let found = only(&guest, "bpf_orphan");
        let said =
            "(xdp, \"lab_filter\") runs, and no process holds it; pinned at \"/sys/fs/bpf/lab-filter\"";
        assert!(found.summary.ends_with(said), "{found:?}");
    }
}

/// What programs jump by may hold more of them than are read: nobody is accused.
#[test]
fn programs_by_the_million_are_a_gap() {
    for mut guest in guests() {
        for_devices(&mut guest);
        let map = guest.look(|view| view.bpf_maps()).items.into_iter().find(|map| map.name == "lab_map");
        let map = map.expect("its map").at;
        let [kind, count] = ["map_type", "max_entries"].map(|name| guest.member(map, "bpf_map", name));
        guest.u32(kind, 3);
        guest.u32(count, u32::MAX);
        incomplete(&guest, lynceus_scanners::bpf_orphans);
    }
}

#[test]
fn a_filter_that_leads_nowhere_is_a_gap() {
    let mut guest = Hostile::new();
    let packets = socket(&guest, "lab-net", |socket| socket.protocol == Protocol::Packet);
    let filter = guest.member(packets.at, "sock", "sk_filter");
    guest.u64(filter, 0x4141_4141_4141_4141);
    incomplete(&guest, lynceus_scanners::packet_sockets);
}

/// Folders that are in each other: the way up has no end.
#[test]
fn folders_in_a_circle_are_a_gap() {
    for mut guest in guests() {
        let task = guest.task("lab-plain");
        let mm = guest.look(|view| view.mm(task.mm)).expect("its memory");
        let program = guest.look(|view| view.entry_of_file(mm.exe_file)).expect("its entry");
        let up = guest.member(program.parent, "dentry", "d_parent");
        guest.u64(up, program.at.0);
        incomplete(&guest, lynceus_scanners::covered_paths);
    }
}

/// A file whose names are in a circle, none of which a lookup finds.
#[test]
fn names_in_a_circle_are_a_gap() {
    for mut guest in guests() {
        let file = open(&guest, "lab-files", "/tmp/lab-append.log");
        let entry = guest.look(|view| view.entry_of_file(file)).expect("its entry");
        let hash = guest.member(entry.at, "dentry", "d_hash.pprev");
        let first = guest.member(entry.inode, "inode", "i_dentry");
        let node = guest.read_u64(first);
        guest.u64(hash, 0).u64(Gva(node), node);
        incomplete(&guest, lynceus_scanners::hidden_files);
    }
}
