//! Programs that make code while they run, and how they are known.
//!
//! *Trusts*: the names of files outside of places that any user may write to: who can put a `libjvm.so` among the system's
//! libraries needs no trick to run code.

use super::places;
use lynceus_introspect::linux::Map;

/// What a process may do with executable memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Maker {
    /// It makes no code.
    None,
    /// It makes small pieces of code, in blocks of the sizes that its library allocates.
    Snippets,
    /// It makes whatever code it likes.
    Compiler,
    /// It loads programs by itself: an emulator of another system.
    Loader,
}

/// Names of compilers, as programs: the whole name, or followed by a version or a hyphen.
const PROGRAMS: &[&str] = &[
    "node",
    "nodejs",
    "deno",
    "bun",
    "java",
    "chrome",
    "chromium",
    "electron",
    "code",
    "firefox",
    "thunderbird",
    "luajit",
    "pypy",
    "pypy3",
    "php",
    "php-fpm",
    "ruby",
    "beam.smp",
    "dotnet",
    "pwsh",
    "mono",
    "julia",
    "guile",
    "sbcl",
    "racket",
    "gforth",
    "hhvm",
    "VirtualBoxVM",
    "VBoxHeadless",
    "vmware-vmx",
    "qemu",
];
/// The same, as libraries.
const LIBRARIES: &[&str] = &[
    "libjvm",
    "libj9jit",
    "libv8",
    "libnode",
    "libmozjs",
    "libxul",
    "libjavascriptcoregtk",
    "libwebkit",
    "libQt5Qml",
    "libQt6Qml",
    "libQt5Script",
    "libQt5WebEngineCore",
    "libQt6WebEngineCore",
    "libcef",
    "libLLVM",
    "libllvmlite",
    "libgccjit",
    "libluajit",
    "libcoreclr",
    "libclrjit",
    "libmono",
    "libtcc",
    "liborc-0.4",
    "libpypy",
    "libruby",
    "libphp",
    "llvmjit",
    "libasmjit",
    "libgallium",
    "libGLX_nvidia",
    "libnvidia-glcore",
    "libEGL_nvidia",
    "libtorch",
    "libdnnl",
    "libmkl",
    "libtensorflow",
    "libjulia",
    "libwasmtime",
    "libwasmer",
    "libchez",
    "libguile",
];
/// Emulators and tools that load and change programs on their own.
const LOADERS: &[&str] = &[
    "wine",
    "wine64",
    "wine-preloader",
    "wine64-preloader",
    "wineserver",
    "box64",
    "box86",
    "memcheck-amd64-linux",
    "callgrind-amd64-linux",
    "massif-amd64-linux",
    "helgrind-amd64-linux",
    "rr",
    "drrun",
    "FEXInterpreter",
    "qemu-x86_64",
    "qemu-i386",
    "qemu-aarch64",
    "runsc",
];
/// Libraries that make small pieces of code: regular expressions and callbacks.
const SNIPPETS: &[&str] = &["libpcre.so", "libpcre2-", "libffi.so"];
/// What those allocate at a time, or a multiple of it (`CHUNK_SIZE` in sljit, the granularity of libffi's dlmalloc).
const SNIPPET_BYTES: u64 = 64 << 10;
/// And never as much as this.
const MAX_SNIPPET_BYTES: u64 = 4 << 20;

/// What a process with this executable and these maps may do.
pub(super) fn maker(executable: &str, maps: &[Map]) -> Maker {
    let program = places::file_name(executable);
    let trusted = !places::is_temporary(executable);
    if trusted && LOADERS.iter().any(|name| is_called(program, name)) {
        return Maker::Loader;
    }
    if trusted && PROGRAMS.iter().any(|name| is_called(program, name)) {
        return Maker::Compiler;
    }
    let mut found = Maker::None;
    for map in maps.iter().filter(|map| !map.file.is_null() && !places::is_temporary(&map.path)) {
        let name = places::file_name(&map.path);
        if LIBRARIES.iter().any(|library| name.starts_with(library)) {
            return Maker::Compiler;
        }
        if SNIPPETS.iter().any(|library| name.starts_with(library)) {
            found = Maker::Snippets;
        }
    }
    found
}

/// Whether a map has a size that the makers of small pieces of code allocate.
pub(super) fn is_snippet(map: &Map) -> bool {
    let len = map.end.0.saturating_sub(map.start.0);
    let named = map.path.starts_with("/memfd:libffi");
    named || (len > 0 && len <= MAX_SNIPPET_BYTES && len.is_multiple_of(SNIPPET_BYTES))
}

/// How a callback of libffi's begins on x86-64, in words (`src/x86/ffi64.c`, `trampoline`; before 3.4 without `endbr64`): it loads its own
/// address and jumps to the pointer behind it.
const CALLBACKS: [&[u64]; 2] = [
    &[0xf515_8d4c_fa1e_0ff3, 0x0000_0725_ffff_ffff, 0x0000_0000_801f_0f00],
    &[0xffff_ffff_f915_8d4c, 0x001f_0f00_0000_0325],
];
/// No pointer of a process, and no number in the lists of libffi's heap, is larger.
const MAX_POINTER: u64 = 1 << 47;

/// Whether a page holds callbacks that libffi made, as Python's ctypes has it make them, and pointers, and nothing else.
pub(super) fn is_callbacks(page: &[u8]) -> bool {
    let words: Vec<u64> = page.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let (mut left, mut found) = (words.as_slice(), false);
    while let Some((first, rest)) = left.split_first() {
        let callback = CALLBACKS.iter().find(|callback| left.starts_with(callback));
        found |= callback.is_some();
        left = match callback {
            Some(callback) => left.get(callback.len()..).unwrap_or_default(),
            None if *first < MAX_POINTER => rest,
            None => return false,
        };
    }
    found
}

/// `php` is called php, php8.2 and php-cgi; not phpunit.
fn is_called(program: &str, name: &str) -> bool {
    program.strip_prefix(name).is_some_and(|rest| {
        rest.is_empty() || rest.starts_with(|next: char| next == '-' || next == '_' || next.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lynceus_introspect::Gva;

    fn map(path: &str, len: u64) -> Map {
        Map {
            start: Gva(0x1000),
            end: Gva(0x1000 + len),
            flags: 5,
            offset: 0,
            device: 0,
            inode: 0,
            path: path.to_owned(),
            at: Gva(0),
            file: Gva(if path.is_empty() { 0 } else { 8 }),
            has_own_pages: false,
        }
    }

    #[test]
    fn compilers_are_known_by_their_program_or_a_library() {
        for (program, library, wanted) in [
            ("/usr/bin/node", "", Maker::Compiler),
            ("/usr/sbin/php-fpm8.2", "", Maker::Compiler),
            ("/usr/bin/qemu-system-x86_64", "", Maker::Compiler),
            ("/usr/bin/wine64-preloader", "", Maker::Loader),
            ("/opt/app/run", "/opt/app/lib/libjvm.so", Maker::Compiler),
            ("/usr/bin/gnome-shell", "/usr/lib/x86_64-linux-gnu/libmozjs-115.so.0", Maker::Compiler),
            ("/usr/sbin/sshd", "/usr/lib/x86_64-linux-gnu/libpcre2-8.so.0", Maker::Snippets),
            ("/usr/sbin/sshd", "", Maker::None),
            ("/usr/bin/nodeploy", "", Maker::None),
            ("/tmp/node", "", Maker::None),
            ("/usr/bin/x", "/dev/shm/libjvm.so", Maker::None),
        ] {
            assert_eq!(maker(program, &[map(library, 0x1000)]), wanted, "{program} {library}");
        }
    }

    /// A page of a Python of Debian's with five callbacks, one of which is freed; then what somebody writes between them.
    #[test]
    fn callbacks_are_known_by_their_form() {
        let callback: [u64; 8] = [
            0x43,
            0xf515_8d4c_fa1e_0ff3,
            0x0000_0725_ffff_ffff,
            0x0000_0000_801f_0f00,
            0x7f15_60f3_00c8,
            0x7f15_6112_2bb8,
            0x7f15_60f5_7060,
            0x7f15_6112_2b90,
        ];
        let mut words: Vec<u64> = callback.repeat(5);
        words[17] = 0x7f15_60f3_4300;
        words.resize(512, 0);
        let page = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        assert!(is_callbacks(&page(&words)));
        let older = [0xffff_ffff_f915_8d4c, 0x001f_0f00_0000_0325, 0x7f15_60f3_00c8];
        assert!(is_callbacks(&page(&older)));
        assert!(!is_callbacks(&[0; 4096]) && !is_callbacks(&[0x90; 4096]));
        words[100] = 0x050f_583b_6a90_9090;
        assert!(!is_callbacks(&page(&words)), "code beside callbacks");
        words[100] = 0;
        words[2] = 0x0000_0825_ffff_ffff;
        assert!(!is_callbacks(&page(&words)), "a callback that jumps elsewhere");
    }

    #[test]
    fn small_pieces_of_code_come_in_blocks() {
        assert!(is_snippet(&map("", 64 << 10)) && is_snippet(&map("/memfd:libffi (deleted)", 0x1000)));
        assert!(!is_snippet(&map("", 0x1000)) && !is_snippet(&map("", 64 << 20)));
    }
}
