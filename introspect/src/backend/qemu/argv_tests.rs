use super::*;
use proptest::prelude::*;
use std::path::Path;

fn parse(line: &str) -> Config {
    Config::parse(
        &line.split('\u{1f}').flat_map(|part| part.split(' ')).map(str::to_owned).collect::<Vec<_>>(),
    )
}

#[test]
fn reads_a_plain_line() {
    let config = parse(
        "-name web,process=x -uuid 6F9619FF-8B86-D011-B42D-00CF4FC964FF -m 1.5G -smp 2,cores=2 -M q35,accel=kvm:tcg \
         -qmp unix:/run/a,,b.sock,server=on,wait=off",
    );
    assert_eq!(config.name.as_deref(), Some("web"));
    assert_eq!(config.uuid.as_deref(), Some("6f9619ff-8b86-d011-b42d-00cf4fc964ff"));
    assert_eq!((config.ram_bytes, config.vcpus), (1536 << 20, 2));
    assert_eq!((config.machine.as_deref(), config.accelerator.as_deref()), (Some("q35"), Some("kvm:tcg")));
    assert_eq!(config.qmp_sockets, [Path::new("/run/a,b.sock")]);
    assert!(config.blocks.is_empty() && config.beyond.is_none());
}

#[test]
fn reads_libvirts_line() {
    let config = parse(
        "-name guest=db,debug-threads=on -S -object {\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\
         \"file\":\"/var/lib/libvirt/qemu/domain-3-db/master-key.aes\"} -machine \
         pc-q35-7.2,usb=off,dump-guest-core=off,memory-backend=pc.ram -accel kvm -m size=4194304k -object \
         {\"qom-type\":\"memory-backend-memfd\",\"id\":\"pc.ram\",\"share\":true,\"size\":4294967296} -smp \
         4,sockets=4,cores=1,threads=1 -chardev socket,id=charmonitor,fd=35,server=on,wait=off -mon \
         chardev=charmonitor,id=monitor,mode=control",
    );
    assert_eq!((config.name.as_deref(), config.ram_bytes, config.vcpus), (Some("db"), 4 << 30, 4));
    assert_eq!(config.machine.as_deref(), Some("pc-q35-7.2"));
    assert_eq!(config.qmp_sockets, [Path::new("/var/lib/libvirt/qemu/domain-3-db/monitor.sock")]);
    let block = &config.blocks[0];
    assert_eq!((block.id.as_str(), block.kind.as_str(), block.len_bytes), ("pc.ram", "memfd", 4 << 30));
}

#[test]
fn puts_numa_nodes_and_monitors_together() {
    let config = parse(
        "-m 64 -mon qq,mode=control -chardev socket,path=/run/q,id=qq -mon chardev=hmp -chardev socket,path=/h,id=hmp \
         -object memory-backend-ram,id=a,size=48M -object memory-backend-file,id=b,size=16M,mem-path=/dev/shm/b \
         -numa node,nodeid=1,memdev=a -numa node,nodeid=0,memdev=b -device pc-dimm,memdev=c",
    );
    assert_eq!(config.qmp_sockets, [Path::new("/run/q")]);
    assert_eq!(config.blocks.iter().map(|block| block.len_bytes >> 20).collect::<Vec<_>>(), [16, 48]);
    assert_eq!(config.beyond, Some("memory devices (DIMMs)"));
}

#[test]
fn an_options_argument_is_not_an_option() {
    let config = parse("-append -m -append 5 -S -m 7 -kernel -uuid -enable-kvm");
    assert_eq!((config.ram_bytes, config.uuid, config.accelerator.as_deref()), (7 << 20, None, Some("kvm")));
    assert_eq!(printable("a\x1b[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
    assert_eq!(parse("-m 99999999999T -smp 0x").ram_bytes, 128 << 20);
    let backend = "-M q35,memory-backend=m -object memory-backend-memfd,id=m,size=1G";
    assert_eq!(parse(backend).ram_bytes, 1 << 30);
    assert_eq!(parse(&format!("{backend} -m 5")).ram_bytes, 5 << 20);
    assert_eq!(parse("-smp sockets=2,cores=3").vcpus, 6);
}

proptest! {
    #[test]
    fn any_text_is_survived(args in proptest::collection::vec(
        prop_oneof!["-(m|smp|name|object|numa|machine|qmp|mon|chardev|uuid|device)", ".*", "[a-z{}\":,=.0-9]*"], 0..12)) {
        let config = Config::parse(&args);
        prop_assert!(config.ram_bytes > 0);
    }
}
