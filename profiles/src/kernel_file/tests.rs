//! What is no kernel is refused, with the reason.

#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::boot_image::lz4_legacy;
use super::*;

fn read(bytes: &[u8]) -> Result<KernelFile, KernelFileError> {
    load(Cursor::new(bytes), Elsewhere::default())
}

/// A boot image around a payload.
fn boot_image(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file
}

#[test]
fn other_files_are_refused_with_the_reason() {
    assert!(matches!(read(b""), Err(KernelFileError::NotAKernel)));
    assert!(matches!(read(&[0; 4096]), Err(KernelFileError::NotAKernel)));
    assert!(matches!(read(b"\x7fELF"), Err(KernelFileError::Elf(_))));
    assert!(matches!(read(&boot_image(b"BZh9")), Err(KernelFileError::Compression(_))));
    let cut = &boot_image(&[0; 100])[..1030];
    assert!(matches!(read(cut), Err(KernelFileError::Payload { .. })));
}

#[test]
fn every_cut_of_every_compression_is_an_error() {
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x88, 1, 2, 3, 4];
    let lz4 = [0x02, 0x21, 0x4c, 0x18, 0xff, 0, 0, 0, 9, 9];
    let xz = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 4, 1, 2];
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 1, 2];
    for payload in [zstd, lz4, xz, gzip] {
        for len in 4..payload.len() {
            assert!(read(&boot_image(&payload[..len])).is_err(), "{payload:x?}");
        }
    }
}

#[test]
fn lz4_blocks_follow_each_other_up_to_the_length_word() {
    let mut frame = Vec::new();
    for text in [&b"kernel "[..], b"image"] {
        let packed = lz4_flex::block::compress(text);
        frame.extend((packed.len() as u32).to_le_bytes());
        frame.extend(packed);
    }
    frame.extend(12u32.to_le_bytes());
    assert_eq!(lz4_legacy(&frame).unwrap(), b"kernel image");
}
