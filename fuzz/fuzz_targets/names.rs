//! What a DNS server answers: any bytes, and any behind a header and question that are right. Few addresses, and none of this host's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_firewall::names::message::{self, Reply};
use lynceus_firewall::names::{MAX_ADDRESSES, Question, address};
use lynceus_policy::Family;

fuzz_target!(|data: &[u8]| {
    for family in Family::ALL {
        let question = Question { name: "a.example".to_owned(), family };
        let mut ours = message::question(7, &question);
        ours[2] |= 0x80;
        ours[7] = data.len().min(255) as u8;
        ours.extend(data);
        for bytes in [data, &ours] {
            if let Ok(Reply::Answer(answer)) = message::read(7, &question, bytes) {
                assert!(answer.addresses.len() <= MAX_ADDRESSES);
                assert!(answer.addresses.iter().all(|found| Family::of(*found) == family && !address::is_nobodys(*found)));
            }
        }
    }
});
