//! Running QEMU guests: firmware only, nothing is downloaded.
//!
//! Each test starts its own QEMU, looks into it and compares with what QEMU itself says (QMP `pmemsave`).

#[path = "qemu/machine.rs"]
mod machine;

use lynceus_introspect::backend::qemu::{LayoutFrom, Qemu, QemuError, QmpError, list};
use lynceus_introspect::{ControlError, Gpa, GuestMemory, Pause, ReadError, Target};
use machine::{Machine, Monitor};
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

const UUID: &str = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";

fn shared_file(machine: &mut Machine) {
    let file = machine.dir().join("ram");
    machine.args(&["-m", "64", "-machine", "q35,memory-backend=m", "-object"]);
    machine.arg(&format!("memory-backend-file,id=m,size=64M,share=on,mem-path={}", file.display()));
}

fn memfd(machine: &mut Machine) {
    machine.args(&[
        "-m",
        "64",
        "-machine",
        "pc,memory-backend=m",
        "-object",
        "memory-backend-memfd,id=m,size=64M,share=on",
    ]);
}

fn private(machine: &mut Machine) {
    machine.args(&["-m", "64", "-machine", "q35"]);
}

fn numa(machine: &mut Machine) {
    machine.args(&["-m", "64", "-smp", "2", "-numa", "node,memdev=a", "-numa", "node,memdev=b"]);
    machine.args(&[
        "-object",
        "memory-backend-ram,id=a,size=24M",
        "-object",
        "memory-backend-memfd,id=b,size=40M,share=on",
    ]);
}

/// Stands the guest still and compares all that we read with QEMU's own copy.
fn compare(machine: &Machine, vm: &Qemu, monitor: &mut Monitor) {
    monitor.execute("stop", json!({}));
    let out = machine.dir().join("pmem");
    let mut total = 0;
    for range in vm.ram() {
        let save =
            json!({ "val": range.start.0, "size": range.len_bytes, "filename": out.to_str().unwrap() });
        monitor.execute("pmemsave", save);
        let theirs = std::fs::read(&out).unwrap();
        let mut ours = vec![0xaa; usize::try_from(range.len_bytes).unwrap()];
        vm.read(range.start, &mut ours).unwrap();
        assert!(ours == theirs, "{range:?} of {:?}", vm.layout());
        total += range.len_bytes;
    }
    assert!(total > (63 << 20) && total <= 64 << 20, "{:?}", vm.ram());
    let mut page = vec![0; 4096];
    for hole in [0xfffc_0000, 64 << 20, u64::MAX - 4000, u64::MAX] {
        assert!(matches!(vm.read(Gpa(hole), &mut page), Err(ReadError::NotRam { .. })), "{hole:#x}");
    }
    assert!(matches!(vm.read(Gpa((64 << 20) - 4095), &mut page), Err(ReadError::NotRam { .. })));
    // The firmware's data area: RAM size in KiB below 640 (BIOS data area, 0x413).
    let mut kib = [0; 2];
    vm.read(Gpa(0x413), &mut kib).unwrap();
    assert_eq!(u16::from_le_bytes(kib), 639);
}

fn every_way(build: fn(&mut Machine), mapped: bool) {
    let mut machine = Machine::new();
    build(&mut machine);
    machine.start();
    machine.wait_for_firmware();
    let free = Qemu::open(machine.pid()).unwrap();
    assert_eq!(free.layout(), &LayoutFrom::Qemu);
    let mut monitor = machine.monitor();
    let before = Instant::now();
    let busy = Qemu::open(machine.pid()).unwrap();
    println!("opened with a busy socket in {:?}", before.elapsed());
    assert!(matches!(busy.layout(), LayoutFrom::CommandLine(QmpError::Busy(_))), "{:?}", busy.layout());
    assert_eq!((free.is_mapped(), busy.is_mapped()), (mapped, mapped));
    compare(&machine, &free, &mut monitor);
    compare(&machine, &busy, &mut monitor);
    assert!(matches!(busy.pause().err(), Some(ControlError::Unavailable(_))), "the monitor holds the socket");
}

#[test]
fn reads_a_shared_file() {
    every_way(shared_file, true);
}

#[test]
fn reads_a_memfd() {
    every_way(memfd, true);
}

#[test]
fn reads_private_memory() {
    every_way(private, false);
}

#[test]
fn reads_blocks_of_several_kinds() {
    every_way(numa, false);
}

#[test]
fn lays_out_ram_around_the_hole() {
    for (kind, mib) in [("q35", 2816), ("q35", 2815), ("pc", 3584), ("pc", 3583)] {
        let mut machine = Machine::new();
        machine.args(&["-m", &mib.to_string(), "-machine", kind, "-S"]);
        machine.start();
        let free = Qemu::open(machine.pid()).unwrap();
        let _held = machine.monitor();
        let busy = Qemu::open(machine.pid()).unwrap();
        assert_eq!((free.layout() == &LayoutFrom::Qemu, busy.layout() == &LayoutFrom::Qemu), (true, false));
        // The firmware has not run: ROM covers what is below 1 MiB, for both.
        let high =
            |vm: &Qemu| vm.ram().iter().filter(|range| range.start.0 >= 1 << 20).copied().collect::<Vec<_>>();
        assert_eq!(high(&free), high(&busy), "{kind} {mib}");
        assert_eq!(high(&free).len(), if mib % 2 == 0 { 2 } else { 1 });
        free.read(Gpa((2 << 30) - 9), &mut [0; 9]).unwrap();
    }
}

#[test]
fn finds_machines_by_name_uuid_and_number() {
    let name = format!("lynceus-{}", std::process::id());
    let mut machine = Machine::new();
    private(&mut machine);
    machine.args(&["-name", &format!("guest={name},debug-threads=on"), "-uuid", UUID, "-smp", "2"]);
    machine.start();
    let vm = list().into_iter().find(|vm| vm.pid == machine.pid()).expect("listed");
    assert_eq!(
        (vm.name.as_str(), vm.uuid.as_deref(), vm.ram_bytes, vm.vcpus),
        (name.as_str(), Some(UUID), 64 << 20, 2)
    );
    assert_eq!((vm.machine.as_deref(), vm.accelerator.as_deref()), (Some("q35"), Some("tcg")));
    assert_eq!(vm.qmp_sockets, [machine.socket()]);
    for handle in [name.clone(), UUID.to_uppercase(), format!("pid:{}", machine.pid())] {
        let target = Target::open(&handle).unwrap();
        target.memory().read(Gpa(0), &mut [0; 8]).unwrap();
        assert!(target.pausable().is_some() && target.describe().contains(&name), "{}", target.describe());
    }
    let mut twin = Machine::new();
    private(&mut twin);
    twin.args(&["-name", &name]);
    twin.start();
    let error = Target::open(&name).unwrap_err().to_string();
    assert!(error.contains(&machine.pid().to_string()) && error.contains(&twin.pid().to_string()), "{error}");
}

#[test]
fn works_without_a_control_socket() {
    let mut machine = Machine::without_monitor();
    private(&mut machine);
    machine.start();
    let vm = machine.open_eventually();
    assert_eq!(vm.layout(), &LayoutFrom::CommandLine(QmpError::None));
    vm.read(Gpa(1 << 20), &mut [0; 4096]).unwrap();
    assert!(matches!(vm.pause().err(), Some(ControlError::Unavailable(_))));
    assert!(Target::open(&format!("pid:{}", machine.pid())).unwrap().pausable().is_none());
}

#[test]
fn refuses_what_only_qemu_could_tell() {
    let mut machine = Machine::new();
    machine.args(&[
        "-m",
        "64,slots=2,maxmem=1G",
        "-object",
        "memory-backend-ram,id=d,size=128M",
        "-device",
        "pc-dimm,memdev=d",
    ]);
    machine.start();
    let all = Qemu::open(machine.pid()).unwrap();
    assert_eq!(all.ram().last().map(|range| range.len_bytes), Some(128 << 20), "{:?}", all.ram());
    let _held = machine.monitor();
    assert!(matches!(Qemu::open(machine.pid()), Err(QemuError::Unsupported { .. })));
}

#[test]
fn a_machine_that_ends_is_lost() {
    for build in [shared_file, memfd, private] {
        let mut machine = Machine::new();
        build(&mut machine);
        machine.start();
        machine.wait_for_firmware();
        let vm = Qemu::open(machine.pid()).unwrap();
        let mut kib = [0; 2];
        let mut reads = 0;
        let error = loop {
            match vm.read(Gpa(0x413), &mut kib) {
                Ok(()) => assert_eq!(u16::from_le_bytes(kib), 639, "after {reads} reads"),
                Err(error) => break error,
            }
            reads += 1;
            if reads == 1000 {
                machine.kill();
            }
        };
        assert!(reads >= 1000 && matches!(error, ReadError::Lost { .. }), "{error}");
        assert!(!vm.is_alive() && vm.read(Gpa(0x413), &mut kib).is_err());
        assert!(vm.pause().is_err());
    }
}

#[test]
fn pauses_and_resumes() {
    let mut machine = Machine::new();
    shared_file(&mut machine);
    machine.start();
    let vm = Qemu::open(machine.pid()).unwrap();
    for _ in 0..2 {
        let before = Instant::now();
        let paused = vm.pause().unwrap();
        // The pause holds the socket, so QEMU's second monitor is asked.
        assert_eq!(machine.second_monitor().state(), "paused");
        paused.resume().unwrap();
        println!("pause, question and resume took {:?}", before.elapsed());
        assert_eq!(vm.run_state().unwrap(), "running");
    }
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _paused = vm.pause().unwrap();
        panic!("a look fails");
    }));
    assert!(looked.is_err());
    assert_eq!(vm.run_state().unwrap(), "running");
    machine.monitor().execute("stop", json!({}));
    vm.pause().unwrap().resume().unwrap();
    assert_eq!(vm.run_state().unwrap(), "paused", "its admin paused it");
}

#[test]
fn a_pause_ends_with_its_lease() {
    let mut machine = Machine::new();
    private(&mut machine);
    machine.start();
    let vm = Qemu::open(machine.pid()).unwrap().with_pause_lease(Duration::from_millis(200));
    let paused = vm.pause().unwrap();
    machine.second_monitor().await_state("running");
    assert!(matches!(paused.resume(), Err(ControlError::Refused(_))), "the look must learn of it");
    let leaked = vm.pause().unwrap();
    std::mem::forget(leaked);
    machine.second_monitor().await_state("running");
}

const VICTIM: &str = "LYNCEUS_TEST_PAUSE_PID";

/// Not a test of its own: what the next test kills.
#[test]
fn victim() {
    let Ok(pid) = std::env::var(VICTIM) else { return };
    let vm = Qemu::open(pid.parse().unwrap()).unwrap().with_pause_lease(Duration::from_secs(3600));
    let _paused = vm.pause().unwrap();
    std::thread::sleep(Duration::from_secs(3600));
}

#[test]
fn a_killed_looker_leaves_the_guest_running() {
    let mut machine = Machine::new();
    private(&mut machine);
    machine.start();
    let mut looker = std::process::Command::new(std::env::current_exe().unwrap());
    let mut looker =
        looker.args(["--exact", "victim"]).env(VICTIM, machine.pid().to_string()).spawn().unwrap();
    machine.second_monitor().await_state("paused");
    looker.kill().unwrap();
    looker.wait().unwrap();
    machine.second_monitor().await_state("running");
    // And the socket is free again.
    machine.monitor().await_state("running");
}

#[test]
fn a_scan_makes_the_host_allocate_nothing() {
    let mut machine = Machine::new();
    memfd(&mut machine);
    machine.start();
    machine.wait_for_firmware();
    let vm = Qemu::open(machine.pid()).unwrap();
    let used = || {
        let fds =
            std::fs::read_dir(format!("/proc/{}/fd", machine.pid())).unwrap().map(|fd| fd.unwrap().path());
        let mut memfds = fds.filter(|fd| {
            std::fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().contains("memfd:memory-backend"))
        });
        std::fs::metadata(memfds.next().unwrap()).unwrap().blocks() * 512
    };
    let before = used();
    assert!(before < 32 << 20, "most of the RAM was never used: {before}");
    let mut page = [0; 4096];
    for range in vm.ram() {
        for at in (range.start.0..range.end().0).step_by(4096) {
            vm.read(Gpa(at), &mut page).unwrap();
        }
    }
    assert!(used() < before + (4 << 20), "{} after {before}", used());
}

#[test]
fn looks_into_other_namespaces() {
    let name = format!("lynceus-inside-{}", std::process::id());
    let mut machine = Machine::new();
    shared_file(&mut machine);
    machine.args(&["-name", &name]);
    if !machine.start_in_namespaces() {
        eprintln!("not tested: making namespaces takes root");
        return;
    }
    assert!(!machine.socket().exists(), "the machine has its own folder there");
    let vm = list().into_iter().find(|vm| vm.name == name).expect("listed");
    let free = Qemu::open(vm.pid).unwrap();
    assert_eq!((free.layout(), free.is_mapped()), (&LayoutFrom::Qemu, true));
    free.pause().unwrap().resume().unwrap();
    free.read(Gpa(1 << 20), &mut [0; 4096]).unwrap();
}
