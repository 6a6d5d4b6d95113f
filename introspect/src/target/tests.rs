use super::*;

fn vm(pid: u32, name: &str, uuid: Option<&str>) -> Vm {
    Vm {
        pid,
        started_ticks: 1,
        uid: 0,
        name: name.to_owned(),
        uuid: uuid.map(str::to_owned),
        ram_bytes: 64 << 20,
        vcpus: 1,
        machine: None,
        accelerator: None,
        qmp_sockets: Vec::new(),
        kernel: None,
        is_incoming: false,
        spent_ticks: 0,
        state: qemu::VmState::Running,
    }
}

#[test]
fn a_name_fits_one_vm_or_none() {
    let vms = || {
        vec![vm(1, "web", Some("aa-bb")), vm(2, "db", None), vm(3, "db", None)]
            .into_iter()
            .map(Found::Qemu)
            .collect::<Vec<_>>()
    };
    let chosen = |name| choose(name, vms()).map(|found| found.summary()).unwrap();
    assert!(chosen("web").contains("process 1") && chosen("AA-BB").contains("process 1"));
    let error = choose("db", vms()).unwrap_err().to_string();
    assert!(
        error.contains("process 2") && error.contains("process 3") && !error.contains("process 1"),
        "{error}"
    );
    let error = choose("mail", vms()).unwrap_err().to_string();
    assert!(error.contains("web (QEMU process 1, 64 MiB, 1 vCPUs)"), "{error}");
    assert!(choose("x", Vec::new()).unwrap_err().to_string().contains("runs on this host"));
}

#[test]
fn a_path_is_a_dump() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.raw");
    std::fs::write(&path, vec![3; 5 << 20]).unwrap();
    let target = Target::open(path.to_str().unwrap()).unwrap();
    let mut byte = [0];
    target.memory().read(crate::Gpa(4 << 20), &mut byte).unwrap();
    assert_eq!(byte, [3]);
    assert!(
        target.pausable().is_none() && target.describe().ends_with("(raw dump, 5 MiB)"),
        "{}",
        target.describe()
    );
    let layout = target.raw_layouts()[0];
    assert_eq!(target.with_raw_layout(layout).unwrap().memory().ram(), target.memory().ram());
    assert!(matches!(Target::open("/nowhere/at/all"), Err(TargetError::Dump(_))));
}

#[test]
fn a_process_that_is_no_vm_is_refused() {
    let error = Target::open(&format!("pid:{}", std::process::id())).unwrap_err();
    assert!(matches!(error, TargetError::Vm { why: QemuError::NotQemu { .. }, .. }), "{error}");
    assert!(matches!(Target::open("pid:4294967295"), Err(TargetError::Vm { .. })));
}
