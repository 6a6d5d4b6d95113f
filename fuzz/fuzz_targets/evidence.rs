//! Evidence files of any bytes, and any bytes as records whose digests fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_profiles::Profile;
use lynceus_scanners::evidence::{Compared, Evidence};
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    let _ = Evidence::read(data);
    // Behind the right digests a reader of records is not protected by them.
    let mut chain = [0; 32];
    let mut file = Vec::new();
    for record in data.split(|byte| *byte == b'\n') {
        let Ok(text) = std::str::from_utf8(record) else { return };
        chain = *blake3::Hasher::new().update(&chain).update(record).finalize().as_bytes();
        let digest = blake3::Hash::from_bytes(chain).to_hex();
        file.extend(format!("{{\"chain\":\"{digest}\",\"record\":{text}}}\n").bytes());
    }
    if let Ok(evidence) = Evidence::read(&file[..]) {
        let mut again = Vec::new();
        evidence.write(&mut again).expect("a vector takes all");
        assert_eq!(Evidence::read(&again[..]).expect("what was written"), evidence);
        let _ = evidence.replay(Arc::new(Profile::default()), &Compared::default());
    }
});
