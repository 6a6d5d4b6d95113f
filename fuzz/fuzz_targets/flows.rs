//! Messages of the flow log and of queues, with packets of any bytes in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_firewall::flows::{self, Told};
use lynceus_firewall::queue;

fuzz_target!(|data: &[u8]| {
    let _ = flows::parse(data);
    let _ = queue::parse(data);
    // As the kernel frames it: a prefix of ours, and the guest's bytes as the packet.
    let attribute = |kind: u16, value: &[u8]| {
        let mut bytes = ((4 + value.len()) as u16).to_le_bytes().to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let packet = &data[..data.len().min(256)];
    let body = [vec![2, 0, 0, 76], attribute(10, b"lynceus deny a in r\0"), attribute(9, packet)].concat();
    let mut message = ((16 + body.len()) as u32).to_le_bytes().to_vec();
    message.extend(0x400u16.to_le_bytes());
    message.extend([0; 10]);
    message.extend(body);
    let body = [vec![2, 0, 7, 184], attribute(1, &[0, 0, 0, 9, 8, 0, 2]), attribute(10, packet)].concat();
    let mut held = ((16 + body.len()) as u32).to_le_bytes().to_vec();
    held.extend(0x300u16.to_le_bytes());
    held.extend([0; 10]);
    held.extend(body);
    assert!(matches!(queue::parse(&held).as_slice(), [queue::Told::Waits(waiting, _)] if waiting.id == 9));
    assert!(matches!(flows::parse(&message).as_slice(), [Told::Flow(flow)] if flow.vm == "a"));
});
