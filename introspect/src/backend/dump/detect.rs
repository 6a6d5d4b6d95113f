//! Which format a file has, by its first bytes; and what to do about files that are no dump, or one of
//! another kind.

use super::image::{DumpError, Image, u32_at};
use super::{Format, avml, elf, kdump, lime, raw};

/// Forms that are not read, and the way out. None of them may pass for a raw image.
const OTHERS: &[(&[u8], &str)] = &[
    (b"DISKDUMP", "a diskdump file of an old kernel; convert it: crash, then `extend` or makedumpfile -E"),
    (
        b"QEVM",
        "a QEMU migration stream; restore it and dump the guest: dump-guest-memory or virsh dump --memory-only",
    ),
    (b"LibvirtQemudSave", "a libvirt save file; restore it and dump the guest: virsh dump --memory-only"),
    (b"LibvirtQemudPart", "an unfinished libvirt save file"),
    (b"PAGEDU64", "a Windows crash dump; take a raw, LiME or ELF dump of the virtual machine instead"),
    (b"PAGEDUMP", "a Windows crash dump; take a raw, LiME or ELF dump of the virtual machine instead"),
    (b"hibr", "a Windows hibernation file; take a dump of the virtual machine instead"),
    (b"\xd0\xbe\xd2\xbe", "a VMware state file; open the .vmem file beside it"),
    (b"\xd2\xbe\xd2\xbe", "a VMware state file; open the .vmem file beside it"),
    (b"\xd1\xba\xd1\xba", "a VMware state file; open the .vmem file beside it"),
    (b"QFI\xfb", "a qcow2 image, which holds a disk (or a snapshot: restore it and dump the guest)"),
    (b"KDMV", "a VMware disk image"),
    (b"\x1f\x8b\x08", "compressed with gzip; unpack it: gunzip FILE"),
    (b"\xfd7zXZ\0", "compressed with xz; unpack it: unxz FILE"),
    (b"BZh", "compressed with bzip2; unpack it: bunzip2 FILE"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it: unzstd FILE"),
    (b"\x04\x22\x4d\x18", "compressed with lz4; unpack it: unlz4 FILE"),
    (b"\xff\x06\x00\x00sNaPpY", "compressed with snappy; unpack it first"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
];

/// Bytes that tell a format.
const HEAD_BYTES: u64 = 4096;

pub(crate) fn format(image: &Image) -> Result<Format, DumpError> {
    let head = image.bytes(0, image.len_bytes().min(HEAD_BYTES), "first bytes")?;
    if head.starts_with(elf::MAGIC) {
        return Ok(Format::Elf);
    }
    if head.starts_with(kdump::MAGIC) {
        return Ok(Format::Kdump);
    }
    match u32_at(&head, 0) {
        Some(lime::MAGIC) => return Ok(Format::Lime),
        Some(avml::MAGIC) => return Ok(Format::Avml),
        _ => {}
    }
    if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(image.unsupported(*what));
    }
    raw::accept(image, &head)?;
    Ok(Format::Raw)
}
