//! Kernel modules as files, of any bytes, linked for anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_profiles::module_file::{ModuleFile, Places};

fuzz_target!(|data: &[u8]| {
    let Ok(file) = ModuleFile::load(data) else { return };
    for (name, _) in file.code_sections() {
        assert!(!name.starts_with(".init"));
    }
    let base = data.iter().fold(0u64, |sum, byte| sum.rotate_left(7) ^ u64::from(*byte));
    let places = Places {
        section: &|name, number| (!name.is_empty()).then_some(base.wrapping_add((name.len() + number) as u64 * 4096)),
        per_cpu: Some(base),
        symbol: &|name| (name.len() % 2 == 0).then_some(base),
    };
    if let Ok(image) = file.link(&places) {
        assert!(image.patch_sites().iter().is_sorted_by_key(|site| (site.at, site.end)));
        for section in image.sections() {
            let _ = image.bytes(section.start, section.end);
        }
    }
});
