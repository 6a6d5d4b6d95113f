//! `vmlinuz`: the boot image around a compressed kernel.
//!
//! Layout: boot protocol (`Documentation/arch/x86/boot.rst`: `setup_sects` 0x1f1, `header` 0x202, `payload_offset` 0x248),
//! `arch/x86/boot/compressed`, the legacy LZ4 frame (`lib/decompress_unlz4.c`).

use super::KernelFileError;
use std::io::Read;

/// Largest boot image, before and after decompression.
const MAX_PAYLOAD_BYTES: u64 = 512 << 20;
/// Blocks of the legacy LZ4 frame hold up to that much.
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// The kernel in a boot image, decompressed: a `vmlinux`.
pub fn unpack(file: &mut impl Read) -> Result<Vec<u8>, KernelFileError> {
    let mut bytes = Vec::new();
    Read::take(file, MAX_PAYLOAD_BYTES).read_to_end(&mut bytes)?;
    decompress(payload(&bytes)?)
}

/// The compressed part of a boot image.
fn payload(file: &[u8]) -> Result<&[u8], KernelFileError> {
    if file.get(0x202..0x206) != Some(b"HdrS") {
        return Err(KernelFileError::NotAKernel);
    }
    let word = |at: usize| {
        let bytes = file.get(at..).and_then(|rest| rest.first_chunk()).ok_or(KernelFileError::NotAKernel)?;
        Ok::<u64, KernelFileError>(u64::from(u32::from_le_bytes(*bytes)))
    };
    let sectors = u64::from(file.get(0x1f1).copied().filter(|count| *count > 0).unwrap_or(4));
    let (offset, len_bytes) = (word(0x248)?, word(0x24c)?);
    let offset = sectors.saturating_add(1).saturating_mul(512).saturating_add(offset);
    let part = usize::try_from(offset).ok().zip(usize::try_from(len_bytes).ok());
    let part = part.and_then(|(start, len)| file.get(start..)?.get(..len));
    part.ok_or(KernelFileError::Payload { offset, len_bytes })
}

/// What was packed, by any of the methods that kernels are packed with.
pub(crate) fn decompress(payload: &[u8]) -> Result<Vec<u8>, KernelFileError> {
    let failed = |why: &dyn std::fmt::Display| KernelFileError::Decompress(why.to_string());
    let limited = |reader: &mut dyn Read| {
        let mut out = Vec::new();
        reader.take(MAX_PAYLOAD_BYTES).read_to_end(&mut out).map_err(|error| failed(&error))?;
        Ok(out)
    };
    match payload.first_chunk::<4>().ok_or(KernelFileError::NotAKernel)? {
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut reader =
                ruzstd::decoding::StreamingDecoder::new(payload).map_err(|error| failed(&error))?;
            limited(&mut reader)
        }
        [0x02, 0x21, 0x4c, 0x18] => lz4_legacy(payload.get(4..).unwrap_or_default()),
        [0xfd, 0x37, 0x7a, 0x58] => limited(&mut lzma_rust2::XzReader::new(payload, false)),
        [0x1f, 0x8b, ..] => limited(&mut flate2::read::GzDecoder::new(payload)),
        magic => Err(KernelFileError::Compression(*magic)),
    }
}

/// Blocks, each with its length before it, to the end or to the kernel's own length word.
pub(super) fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>, KernelFileError> {
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let Some((packed, next)) = after.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
        let written = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| KernelFileError::Decompress(error.to_string()))?;
        out.extend_from_slice(block.get(..written).unwrap_or_default());
        if out.len() as u64 > MAX_PAYLOAD_BYTES {
            return Err(KernelFileError::Decompress("more than 512 MiB".to_owned()));
        }
        rest = next;
    }
    Ok(out)
}
