//! Many VMs with many rules: how long compiling takes, printed for whoever runs it by hand with `--nocapture --ignored`.

use lynceus_firewall::Moment;
use lynceus_firewall::host::{Host, Port};
use lynceus_firewall::nft::table::{self, Path};
use lynceus_firewall::nft::{install, update};
use lynceus_policy::{Folder, Policy, Timestamp};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

fn text(changed: bool) -> String {
    let mut text = String::new();
    for vm in 0..1000 {
        let (high, low) = (vm / 250, vm % 250 + 1);
        let _ = write!(
            text,
            "[vm.v{vm}]\n[[vm.v{vm}.interface]]\nport='vif{vm}.0'\nmac='52:54:00:00:{high:02x}:{low:02x}'\naddresses=['10.0.{high}.{low}']\n[policy.p{vm}]\nvms=['v{vm}']\n"
        );
        for rule in 0..50 {
            let port = 1000 + rule + usize::from(changed && vm == 500 && rule == 7) * 1000;
            let action = if rule % 5 == 4 { "deny" } else { "allow" };
            let _ = write!(
                text,
                "[[policy.p{vm}.rule]]\ndirection='in'\naction='{action}'\nservices=['tcp/{port}']\npeer={{addresses=['10.{rule}.0.0/16']}}\n"
            );
        }
    }
    text
}

fn host(policy: &Policy) -> Host {
    let ports = policy.vms.values().map(|vm| {
        let interface = vm.vm.interfaces[0].clone();
        (interface.port.clone().unwrap(), Port { policy: Arc::new(vm.clone()), interface })
    });
    Host { ports: ports.collect(), ..Host::default() }
}

#[test]
#[ignore = "a measurement: cargo test --release -p lynceus-firewall --test large -- --ignored --nocapture"]
fn a_thousand_vms_with_fifty_rules_each() {
    let resolve = |text: String| {
        let started = Instant::now();
        let folder = Folder::parse(vec![("p.toml".to_owned(), text)]).unwrap();
        let parsed = started.elapsed();
        let policy = Policy::of(&folder).unwrap();
        println!("parse {parsed:?}, resolve {:?}", started.elapsed() - parsed);
        policy
    };
    let (old, new) = (resolve(text(false)), resolve(text(true)));
    let now = Moment::at(Timestamp(1_780_272_000));
    let started = Instant::now();
    let before = table::tables(&host(&old), Path::Routed, 1, &now);
    println!("compile {:?}", started.elapsed());
    let after = table::tables(&host(&new), Path::Routed, 2, &now);
    let started = Instant::now();
    let whole = install(&before).whole();
    let change = update(&before, &after).whole();
    println!(
        "{} commands for all, {} for one VM's change: {:?}",
        whole.nftables.len(),
        change.nftables.len(),
        started.elapsed()
    );
    assert!(change.nftables.len() < 200);
    if let Ok(folder) = std::env::var("LYNCEUS_WRITE") {
        for (name, transaction) in [("whole", &whole), ("change", &change)] {
            std::fs::write(format!("{folder}/{name}.json"), serde_json::to_vec(transaction).unwrap())
                .unwrap();
        }
    }
}
