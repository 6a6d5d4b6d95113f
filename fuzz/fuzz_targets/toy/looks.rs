//! Every view of a guest, whatever is in its memory.
//!
//! Said of each is only whether the kernel has what it needs: that is what the toy kernel must not lack.

use lynceus_introspect::linux::{Connection, PathAt, Protocol, Task, View};
use lynceus_introspect::{GapReason, Gva, Partial};
use lynceus_profiles::ProfileError;
use std::collections::HashMap;

/// Most objects of a kind that the views of one object are asked about.
const MOST: usize = 32;

/// What the kernel lacks for the views that were asked for.
#[derive(Default)]
pub struct Looks {
    /// Each with what it was missed for.
    pub lacking: Vec<(&'static str, ProfileError)>,
}

/// Asks for everything. `object` is an address at which anything may lie.
pub fn everything(view: &View<'_>, object: Gva) -> Looks {
    let mut looks = Looks::default();
    looks.system(view);
    looks.modules(view);
    looks.files(view, object);
    let tasks = looks.all(view.tasks());
    for task in tasks.iter().take(MOST).chain(looks.one(view.task(object)).iter()) {
        looks.process(view, task);
    }
    looks.sockets(view, object, tasks);
    looks
}

impl Looks {
    fn all<T>(&mut self, found: Partial<T>) -> Vec<T> {
        for gap in found.gaps {
            if let GapReason::Unavailable(missing) = gap.reason {
                self.lacking.push((gap.what, missing));
            }
        }
        found.items
    }

    fn one<T>(&mut self, found: Result<T, GapReason>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(GapReason::Unavailable(missing)) => {
                self.lacking.push(("", missing));
                None
            }
            Err(_) => None,
        }
    }

    fn system(&mut self, view: &View<'_>) {
        self.all(view.net_namespaces());
        self.all(view.interfaces());
        self.all(view.kernel_log());
        self.one(view.clocks());
        self.all(view.syscalls());
        self.all(view.interrupt_gates());
        self.one(view.kernel_text());
        self.one(view.kernel_string("modprobe_path"));
        self.one(view.per_cpu("runqueues"));
        self.all(view.probes());
        self.all(view.traces());
        self.all(view.packet_hooks());
        self.all(view.notifiers());
        self.all(view.terminal_inputs());
        self.all(view.trampolines());
        self.all(view.bpf_maps());
        self.all(view.bpf_links());
        self.all(view.bpf_orphans(view.bpf_programs().items));
        self.all(view.bpf_pins());
        self.all(view.bpf_pinned(view.bpf_programs().items));
        for program in self.all(view.bpf_programs()).iter().take(MOST) {
            self.one(view.bpf_calls(program));
        }
        self.all(view.pulses());
        self.all(view.tasks_by_pid());
        self.all(view.tasks_in_queues());
        self.all(view.processes());
        for task in self.all(view.tasks_carved()).iter().take(MOST) {
            let _ = view.is_living_task(task.at, task.pid);
        }
    }

    fn modules(&mut self, view: &View<'_>) {
        let modules = self.all(view.modules());
        self.all(view.modules_in_tree());
        self.all(view.modules_in_sysfs());
        for module in modules.iter().take(8) {
            self.all(view.module_symbols(module));
            self.all(view.module_sections(module));
            self.one(view.module_per_cpu(module));
            let _ = view.code_at(module.base, &modules);
        }
    }

    fn files(&mut self, view: &View<'_>, object: Gva) {
        self.all(view.cached_files());
        self.all(view.file_pages(object));
        self.all(view.mapped_file_pages(object));
        self.all(view.file_start(object, 1 << 20, 64 << 10));
        let mut places = HashMap::new();
        for mount in self.all(view.mounts(object, None)).into_iter().take(64) {
            if let Some(place) = self.one(view.mounted_on(&mount)) {
                places.insert(place, mount);
            }
        }
        let place = PathAt { mount: object, dentry: object };
        self.one(view.covering(place, &places));
        self.all(view.files(object));
        self.one(view.path(object, object));
        self.one(view.path_below(place, Some(place)));
        self.one(view.path_within_fs(object));
        self.one(view.is_found_by_name(object));
        self.one(view.place_of_file(object));
        self.one(view.is_released(object));
        self.one(view.file_info(object));
        self.one(view.entries_named(object, b"a"));
        self.one(view.lookup(object, b"a"));
        if let Some(entry) = self.one(view.entry_of_file(object)) {
            self.one(view.entry_name(entry.at));
        }
    }

    fn process(&mut self, view: &View<'_>, task: &Task) {
        self.all(view.threads(task));
        self.one(view.creds(task));
        self.one(view.namespaces(task));
        self.one(view.cgroup(task));
        self.one(view.parent(task));
        self.one(view.tracer(task));
        self.one(view.user_dispatch(task));
        self.one(view.root_of(task));
        self.one(view.cwd_of(task));
        self.all(view.files(task.files));
        self.all(view.sockets_held(task));
        self.all(view.bpf_held(task));
        let Some(mm) = self.one(view.mm(task.mm)) else { return };
        self.all(view.maps(&mm));
        self.one(view.exe(&mm));
        self.one(view.cmdline(&mm));
        self.one(view.environ(&mm));
        self.one(view.started_as(&mm));
        self.one(view.process_space(&mm));
    }

    fn sockets(&mut self, view: &View<'_>, object: Gva, tasks: Vec<Task>) {
        let sockets = self.all(view.sockets_in_tables());
        self.all(view.files_in_flight(&sockets));
        self.one(view.socket_of_file(object));
        let end = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        for (protocol, is_accepted) in [(Protocol::Tcp, true), (Protocol::Tcp, false), (Protocol::Udp, false)]
        {
            let wanted = Connection { protocol, local: end(80), remote: end(40_000), is_accepted };
            let found = self.all(view.sockets_of_connection(&wanted));
            let files: Vec<Gva> = found.iter().map(|socket| socket.file).chain([object]).collect();
            self.all(view.holders(&files));
        }
        let tables = tasks.into_iter().take(MOST).map(|task| (task.pid, task.comm, task.files));
        self.all(view.sockets_of(tables));
    }
}
