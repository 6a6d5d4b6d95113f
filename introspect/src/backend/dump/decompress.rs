//! One compressed page of a kdump file. A page fills its block exactly or is corrupt.

use super::lzo;

/// `page_desc.flags` of makedumpfile `diskdump_mod.h`.
pub(crate) const ZLIB: u32 = 0x1;
pub(crate) const LZO: u32 = 0x2;
pub(crate) const SNAPPY: u32 = 0x4;
pub(crate) const ZSTD: u32 = 0x20;
/// A page decompresses alone; a window above 8 MiB could only be a bomb.
const MAX_ZSTD_WINDOW: u8 = 13 << 3;

pub(crate) fn page(flags: u32, stored: &[u8], page: &mut [u8]) -> Result<(), String> {
    match flags & (ZLIB | LZO | SNAPPY | ZSTD) {
        0 if stored.len() == page.len() => {
            page.copy_from_slice(stored);
            Ok(())
        }
        0 => Err(format!("an uncompressed page of {} bytes", stored.len())),
        ZLIB => zlib(stored, page),
        LZO => lzo::decompress(stored, page).ok_or_else(|| "the LZO data is corrupt".to_owned()),
        SNAPPY => snappy(stored, page),
        ZSTD => zstd(stored, page),
        other => Err(format!("unknown compression {other:#x}")),
    }
}

fn zlib(stored: &[u8], page: &mut [u8]) -> Result<(), String> {
    let once = std::iter::once(stored);
    match miniz_oxide::inflate::decompress_slice_iter_to_slice(page, once, true, false) {
        Ok(len) if len == page.len() => Ok(()),
        Ok(len) => Err(format!("the zlib data is {len} bytes, not a page")),
        Err(status) => Err(format!("the zlib data is corrupt: {status:?}")),
    }
}

/// Snappy's block format, into exactly `out`.
pub(crate) fn snappy(stored: &[u8], out: &mut [u8]) -> Result<(), String> {
    let len = snap::raw::decompress_len(stored).map_err(|e| e.to_string())?;
    if len != out.len() {
        return Err(format!("the snappy data is {len} bytes, not {}", out.len()));
    }
    snap::raw::Decoder::new().decompress(stored, out).map(drop).map_err(|e| e.to_string())
}

fn zstd(stored: &[u8], page: &mut [u8]) -> Result<(), String> {
    // RFC 8878, 3.1.1.1: the descriptor's bit 5 says that the frame is one segment without a window byte.
    let single = stored.get(4).is_some_and(|descriptor| descriptor & 0x20 != 0);
    if !single && stored.get(5).is_some_and(|window| *window > MAX_ZSTD_WINDOW) {
        return Err("the zstd window is absurd".to_owned());
    }
    let len = ruzstd::decoding::FrameDecoder::new().decode_all(stored, page).map_err(|e| e.to_string())?;
    if len == page.len() { Ok(()) } else { Err(format!("the zstd data is {len} bytes, not a page")) }
}
