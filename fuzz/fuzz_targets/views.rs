//! Every view of a kernel whose memory is any bytes: all end, none panics, and what is listed is bounded.
#![no_main]

mod toy;

use libfuzzer_sys::fuzz_target;
use lynceus_introspect::linux::{Connection, PathAt, Protocol, View};

fuzz_target!(|input: &[u8]| {
    let Some((start, writes)) = input.split_first_chunk::<2>() else { return };
    let guest = toy::guest(writes);
    let view = guest.view();
    processes(&view);
    for modules in [view.modules(), view.modules_in_tree(), view.modules_in_sysfs()] {
        for module in modules.items.iter().take(8) {
            drop(view.module_symbols(module));
        }
    }
    drop((view.cached_files(), view.syscalls(), view.interrupt_gates()));
    drop((view.bpf_programs(), view.bpf_maps(), view.bpf_links()));
    drop((
        view.net_namespaces(),
        view.interfaces(),
        view.sockets_in_tables(),
        view.kernel_log(),
        view.clocks(),
    ));
    let object = toy::object(u16::from_le_bytes(*start));
    let places = view.mounts(object, None).items.into_iter().take(64);
    let places = places.filter_map(|mount| Some((view.mounted_on(&mount).ok()?, mount))).collect();
    drop(view.covering(PathAt { mount: object, dentry: object }, &places));
    drop((view.files(object), view.path(object, object), view.is_found_by_name(object)));
    drop((view.socket_of_file(object), view.path_within_fs(object)));
});

fn processes(view: &View<'_>) {
    let tasks = view.tasks();
    for task in tasks.items.iter().take(64) {
        drop((
            view.threads(task),
            view.creds(task),
            view.namespaces(task),
            view.cgroup(task),
            view.files(task.files),
            view.root_of(task),
            view.cwd_of(task),
        ));
        if let Ok(mm) = view.mm(task.mm) {
            drop((view.maps(&mm), view.exe(&mm), view.cmdline(&mm), view.environ(&mm)));
        }
    }
    let end = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    for (protocol, is_accepted) in [(Protocol::Tcp, true), (Protocol::Tcp, false), (Protocol::Udp, false)] {
        let wanted = Connection { protocol, local: end(80), remote: end(40_000), is_accepted };
        let found = view.sockets_of_connection(&wanted);
        drop(view.holders(&found.items.iter().map(|socket| socket.file).collect::<Vec<_>>()));
    }
    drop((view.tasks_by_pid(), view.tasks_in_queues(), view.tasks_carved()));
    drop(view.sockets_of(tasks.items.into_iter().take(64).map(|task| (task.pid, task.comm, task.files))));
}
