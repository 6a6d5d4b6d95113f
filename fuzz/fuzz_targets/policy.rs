//! Policy files of any text: a policy for each VM or errors with places, and what is resolved reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_policy::{Folder, Policy, Timestamp, VmPolicy};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Two files, so that what they say of each other is met too.
    let (one, other) = text.split_once("\n---\n").unwrap_or((text, ""));
    let files = vec![("a.toml".to_owned(), one.to_owned()), ("b.toml".to_owned(), other.to_owned())];
    let policy = match Folder::parse(files).and_then(|folder| Policy::of(&folder)) {
        Ok(policy) => policy,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for vm in policy.vms.values() {
        let text = serde_json::to_string(vm).expect("it is written");
        let again: VmPolicy = serde_json::from_str(&text).expect("what is written reads back");
        assert_eq!(&again, vm);
        vm.changes_after(Timestamp(1_800_000_000));
        policy.isolated(vm);
    }
});
