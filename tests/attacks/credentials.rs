//! Attack 9: credentials written over in memory, as exploits of the kernel do, and what may look like it.

use crate::hostile::Hostile;
use crate::integrity::findings;
use lynceus_introspect::Gva;
use lynceus_introspect::linux::Creds;
use lynceus_scanners::Subject;

/// What a user runs, and the user's shell that started it.
const COMMAND: &str = "lab-command";
const SHELL: &str = "lab-session";
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;

fn guests() -> [Hostile; 2] {
    [Hostile::new(), Hostile::old()]
}

fn creds(guest: &Hostile, comm: &str) -> Creds {
    let task = guest.task(comm);
    guest.look(|view| view.creds(&task)).expect("its credentials")
}

/// Writes 0 over all user ids, as exploits do that can write but not call.
fn make_root(guest: &mut Hostile, comm: &str) {
    let at = creds(guest, comm).at;
    for member in ["uid", "euid", "suid", "fsuid"] {
        let place = guest.member(at, "cred", member);
        guest.u32(place, 0);
    }
}

/// What the kernel noted of the process's start, changed: as if it had started another program since.
fn started_as_root(guest: &mut Hostile, comm: &str) {
    let field = guest.field("mm_struct", "saved_auxv");
    let vector = guest.mm(comm).at.field(field.offset);
    for entry in (0..u64::from(field.size)).step_by(16).map(|offset| Gva(vector.0 + offset)) {
        if [AT_UID, AT_EUID].contains(&guest.read_u64(entry)) {
            guest.u64(Gva(entry.0 + 8), 0);
        }
    }
}

/// One finding, by this detector, about the command.
fn only_the_command(guest: &Hostile, technique: &str, words: &str) {
    let found = findings(guest);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((&*found[0].detector, &*found[0].technique), ("raised_credentials", technique));
    assert!(matches!(&found[0].subject, Subject::Task { comm, .. } if comm == COMMAND), "{found:#?}");
    assert!(found[0].summary.contains(words), "{}", found[0].summary);
}

#[test]
fn a_users_program_that_is_root() {
    for mut guest in guests() {
        make_root(&mut guest, COMMAND);
        only_the_command(&guest, "T1068", "though it was started as a user");
    }
}

#[test]
fn a_root_shell_of_a_users_program() {
    for mut guest in guests() {
        make_root(&mut guest, COMMAND);
        started_as_root(&mut guest, COMMAND);
        only_the_command(&guest, "T1068", "by a process that never was");
    }
}

/// As `commit_creds(prepare_kernel_cred(0))` leaves it: the kernel's own groups.
#[test]
fn a_root_shell_with_the_kernels_groups() {
    for mut guest in guests() {
        make_root(&mut guest, COMMAND);
        started_as_root(&mut guest, COMMAND);
        let (place, groups) =
            (guest.member(creds(&guest, COMMAND).at, "cred", "group_info"), guest.symbol("init_groups"));
        guest.u64(place, groups.0);
        only_the_command(&guest, "T1068", "by a process that never was");
    }
}

/// As `doas`, `pkexec` and `sudo` leave it that start the program in their own place: root's groups, set anew.
#[test]
fn a_root_shell_by_doas_is_no_finding() {
    for mut guest in guests() {
        make_root(&mut guest, COMMAND);
        started_as_root(&mut guest, COMMAND);
        let (place, groups) =
            (guest.member(creds(&guest, COMMAND).at, "cred", "group_info"), creds(&guest, "lab-user").groups);
        assert_ne!(groups, creds(&guest, SHELL).groups);
        guest.u64(place, groups.0);
        assert_eq!(findings(&guest), []);
    }
}

#[test]
fn a_users_program_with_capabilities() {
    for mut guest in guests() {
        let at = creds(&guest, COMMAND).at;
        for member in ["cap_permitted", "cap_effective"] {
            let place = guest.member(at, "cred", member);
            guest.u64(place, 1 << 21);
        }
        only_the_command(&guest, "T1548", "neither its program nor its parent");
    }
}

/// As systemd starts a service that may do one thing more.
#[test]
fn a_service_with_an_ambient_capability_is_no_finding() {
    for mut guest in guests() {
        let at = creds(&guest, COMMAND).at;
        for member in ["cap_inheritable", "cap_permitted", "cap_effective", "cap_ambient"] {
            let place = guest.member(at, "cred", member);
            guest.u64(place, 1 << 10);
        }
        assert_eq!(findings(&guest), []);
    }
}
