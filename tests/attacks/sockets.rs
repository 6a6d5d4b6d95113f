//! Attack 9: sockets taken out of where the guest's own tools look for them.

use crate::hostile::Hostile;
use crate::integrity::findings;
use lynceus_introspect::Gva;
use lynceus_introspect::linux::{Socket, SocketState};
use lynceus_scanners::{Finding, Subject};

/// A port on which `lab-net` listens.
const PORT: u16 = 10001;

fn guests() -> [Hostile; 2] {
    [Hostile::new(), Hostile::old()]
}

fn listener(guest: &Hostile) -> Socket {
    let task = guest.task("lab-net");
    let held = guest.look(|view| view.sockets_held(&task)).items;
    let ours = |socket: &Socket| socket.state == SocketState::LISTEN && socket.local.port() == Some(PORT);
    held.into_iter().find(ours).expect("a listening socket")
}

fn only(guest: &Hostile, missing_from: &str) -> Finding {
    let mut found = findings(guest);
    assert_eq!(found.len(), 1, "{found:#?}");
    let found = found.remove(0);
    assert_eq!(found.detector, "hidden_socket");
    assert_eq!(found.missing_from, [missing_from]);
    assert!(
        matches!(&found.subject, Subject::Socket { local, .. } if local.ends_with(":10001")),
        "{found:?}"
    );
    found
}

/// Its descriptor is gone, as that of a process that is hidden from all lists would be.
#[test]
fn a_listening_socket_that_nobody_has() {
    for mut guest in guests() {
        let (socket, files) = (listener(&guest), guest.task("lab-net").files);
        let table = Gva(guest.read_u64(guest.member(files, "files_struct", "fdt")));
        let [array, open] =
            ["fd", "open_fds"].map(|member| Gva(guest.read_u64(guest.member(table, "fdtable", member))));
        let holds = |fd: &u64| guest.read_u64(Gva(array.0 + fd * 8)) == socket.file.0;
        let fd = (0..64).find(holds).expect("its descriptor");
        let bits = guest.read_u64(open);
        guest.u64(Gva(array.0 + fd * 8), 0).u64(open, bits & !(1 << fd));
        only(&guest, "descriptors of processes");
    }
}

/// It is off its chain, and so in no file of `/proc/net`.
#[test]
fn a_listening_socket_that_is_in_no_table() {
    for mut guest in guests() {
        let socket = listener(&guest);
        let node = guest.member(socket.at, "sock_common", "skc_node");
        let (next, before) = (guest.read_u64(node), Gva(guest.read_u64(Gva(node.0 + 8))));
        guest.u64(before, next);
        if next & 1 == 0 {
            guest.u64(Gva(next + 8), before.0);
        }
        let found = only(&guest, "socket tables");
        assert!(found.summary.contains("(lab-net)"), "{}", found.summary);
    }
}
