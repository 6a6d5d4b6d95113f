//! Kernels as files, of any bytes: boot images of every compression, and ELF files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lynceus_profiles::kernel_file::{self, Elsewhere, KernelImage};
use std::io::Cursor;

/// How payloads begin: zstd, LZ4, xz, gzip.
const MAGIC: [&[u8]; 4] =
    [&[0x28, 0xb5, 0x2f, 0xfd], &[2, 0x21, 0x4c, 0x18], &[0xfd, b'7', b'z', b'X', b'Z', 0], &[0x1f, 0x8b, 8]];

fuzz_target!(|data: &[u8]| {
    let _ = kernel_file::load(Cursor::new(data), Elsewhere::default());
    let _ = kernel_file::types_of(Cursor::new(data));
    if let Ok(image) = KernelImage::mapped(&data.to_vec().into(), "digest") {
        let _ = image.relocated(0, u64::MAX, 4096);
        image.patch_sites().iter().for_each(drop);
        image.symbols.iter().for_each(drop);
    }
    if let Ok(image) = KernelImage::load(Cursor::new(data)) {
        assert!(image.patch_sites().iter().is_sorted_by_key(|site| (site.at, site.end)));
        let mut block = Vec::new();
        image.unpacked("digest").write(&mut block).unwrap();
        // Names of sections may have more bytes than a head.
        let mapped = KernelImage::mapped(&block.into(), "digest").unwrap_or_else(|_| image.clone());
        assert!(mapped.symbols == image.symbols && mapped.patch_sites() == image.patch_sites());
        for section in image.sections() {
            let _ = image.relocated(section.start, section.end, 2 << 20);
        }
    }
    let Some((which, payload)) = data.split_first() else { return };
    let magic = MAGIC[usize::from(which % 4)];
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x24c..0x250].copy_from_slice(&((magic.len() + payload.len()) as u32).to_le_bytes());
    image.extend(magic);
    image.extend(payload);
    let _ = kernel_file::load(Cursor::new(&image), Elsewhere::default());
});
