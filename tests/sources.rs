//! Types and symbols from files: what the compiler says of its own structures, what a kernel's headers say of its BTF, and a
//! kernel's own file taken apart and put together again.

use anyhow::{Context, Result, bail, ensure};
use lynceus_lab::images;
use lynceus_lab::{KernelVersion, Paging, Spec, kernels, module};
use lynceus_profiles::kernel_file::{self, Elsewhere};
use lynceus_profiles::{Profile, Types, compare, dwarf};
use std::fmt::Write;
use std::fs::{self, File};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Structures with everything that is hard about them, and a program that says where their members lie.
const SAMPLE: &str = r#"
#include <stddef.h>
#include <stdio.h>
#include <string.h>
typedef unsigned long word_t;
typedef const word_t fixed_t;
enum mood { CALM, ANGRY = 40, FURIOUS = 0x7fffffff };
enum sign { MINUS = -5, PLUS = 5 };
struct node { struct node *next, **previous; };
struct unknown;
struct sample {
    char letter; fixed_t word; enum mood mood; enum sign sign;
    struct node list; struct { int inner; union { short half; char quarters[4]; }; };
    union { long all; struct { int low, high; }; } both;
    struct unknown *far; void *any; int (*call)(struct sample *, int);
    unsigned flag : 1, wide : 13; unsigned long long tail : 40; int last : 3;
    double real; _Bool truth; struct node table[3][5]; volatile int *const restrict_me;
    char rest[];
};
struct __attribute__((packed)) tight { char one; int two; unsigned three : 5; unsigned four : 11; long five; };
struct sample *keep_sample; struct tight *keep_tight; enum mood keep_mood; enum sign keep_sign;
#define PLAIN(s, m) printf(#s " " #m " %zu %zu\n", offsetof(struct s, m), sizeof ((struct s *)0)->m)
#define BITS(s, m) do { union { struct s s; unsigned char b[sizeof(struct s)]; } u; memset(&u, 0, sizeof u); \
    u.s.m = -1; int first = -1, count = 0; \
    for (unsigned i = 0; i < 8 * sizeof u; i++) if (u.b[i / 8] >> i % 8 & 1) { if (first < 0) first = i; count++; } \
    printf(#s " " #m " bit %d %d\n", first, count); } while (0)
int main(void) {
    printf("sample size %zu\ntight size %zu\n", sizeof(struct sample), sizeof(struct tight));
    PLAIN(sample, letter); PLAIN(sample, word); PLAIN(sample, mood); PLAIN(sample, sign); PLAIN(sample, list);
    PLAIN(sample, list.previous); PLAIN(sample, inner); PLAIN(sample, half); PLAIN(sample, quarters); PLAIN(sample, both);
    PLAIN(sample, both.high); PLAIN(sample, far); PLAIN(sample, any); PLAIN(sample, call); PLAIN(sample, real);
    PLAIN(sample, truth); PLAIN(sample, table); PLAIN(sample, restrict_me);
    BITS(sample, flag); BITS(sample, wide); BITS(sample, tail); BITS(sample, last);
    PLAIN(tight, one); PLAIN(tight, two); PLAIN(tight, five); BITS(tight, three); BITS(tight, four);
    return 0;
}
"#;

fn gcc(args: &[&str], source: &Path, out: &Path) -> Result<()> {
    let output = Command::new("gcc").args(args).arg("-o").arg(out).arg(source).output().context("gcc")?;
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The sample, compiled with these flags.
fn sample(folder: &Path, flags: &[&str]) -> Result<PathBuf> {
    let (source, out) = (folder.join("sample.c"), folder.join("sample"));
    fs::write(&source, SAMPLE)?;
    gcc(flags, &source, &out)?;
    Ok(out)
}

/// What the reader says, as the sample prints it.
fn as_printed(types: &Types, line: &str) -> Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let [ty, member, ..] = words[..] else { bail!("a line of {words:?}") };
    if member == "size" {
        return Ok(format!("{ty} size {}", types.size_of(ty).context("no size")?));
    }
    let field = types.field(ty, member)?;
    Ok(match field.bits {
        Some((first, width)) => format!("{ty} {member} bit {} {width}", field.offset * 8 + u32::from(first)),
        None => format!("{ty} {member} {} {}", field.offset, field.size),
    })
}

#[test]
fn members_lie_where_the_compiler_puts_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for flags in [
        &["-gdwarf-4"][..],
        &["-gdwarf-5"],
        &["-gdwarf-5", "-gz=zlib"],
        &["-gdwarf-4", "-gz=zlib"],
        // Bit fields are placed from the top then (DW_AT_bit_offset).
        &["-gdwarf-4", "-gstrict-dwarf"],
    ] {
        let program = sample(folder.path(), flags)?;
        let printed = Command::new(&program).output()?.stdout;
        let printed = String::from_utf8(printed)?;
        let types = dwarf::read(&mut File::open(&program)?).with_context(|| format!("{flags:?}"))?;
        ensure!(printed.lines().count() == 29, "{printed}");
        for line in printed.lines() {
            ensure!(as_printed(&types, line)? == line, "{flags:?}: {line}: {}", as_printed(&types, line)?);
        }
        for (name, value) in [("CALM", 0), ("ANGRY", 40), ("FURIOUS", 0x7fff_ffff), ("MINUS", -5)] {
            ensure!(types.enumerator(name) == Some(value), "{flags:?}: {name}");
        }
    }
    Ok(())
}

#[test]
fn what_is_not_read_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let error = |flags: &[&str]| -> Result<String> {
        let program = sample(folder.path(), flags)?;
        match dwarf::read(&mut File::open(program)?) {
            Ok(types) => bail!("{flags:?}: {} types", types.len()),
            Err(error) => Ok(error.to_string()),
        }
    };
    ensure!(error(&["-g0"])?.contains("no debug information"));
    ensure!(error(&["-gdwarf-4", "-c"])?.contains("not linked"));
    ensure!(error(&["-gdwarf-3", "-gstrict-dwarf"])?.contains("version other than 4 and 5"));
    ensure!(error(&["-gdwarf-5", "-gsplit-dwarf"])?.contains("split files"));
    ensure!(error(&["-gdwarf-5", "-fdebug-types-section"])?.contains("type units"));
    Ok(())
}

/// Whatever is cut off or written over: types or an error, and never more than the file can hold.
#[test]
fn damaged_debug_information_is_an_error_or_other_types() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for flags in [&["-gdwarf-5"][..], &["-gdwarf-4"], &["-gdwarf-5", "-gz=zlib"]] {
        let bytes = fs::read(sample(folder.path(), flags)?)?;
        let (mut sound, mut broken) = (0, 0);
        let mut judge = |bytes: &[u8]| match dwarf::read(&mut Cursor::new(bytes)) {
            Ok(_) => sound += 1,
            Err(_) => broken += 1,
        };
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= if at % 2 == 0 { 0xff } else { 0x80 };
            judge(&flipped);
        }
        (0..bytes.len()).step_by(7).for_each(|len| judge(&bytes[..len]));
        ensure!(sound > 1000 && broken > 1000, "{sound} {broken}");
    }
    Ok(())
}

/// The kernel's own headers, compiled here, against the BTF that the kernel was built with.
#[test]
fn debug_information_of_a_kernels_headers_agrees_with_its_btf() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (version, dwarf_version) in
        [(KernelVersion::V5_10, 4), (KernelVersion::V6_1, 5), (KernelVersion::V6_12, 5)]
    {
        let kernel = kernels::fetch(version)?;
        let btf = kernel_file::load(File::open(&kernel.vmlinuz)?, Elsewhere::default())?.profile.types;
        let file = folder.path().join(format!("types-{version}"));
        module::debug_types(&kernel, dwarf_version, &file)?;
        let own = dwarf::read(&mut File::open(&file)?)?;
        let common = own.record_names().filter(|name| btf.size_of(name).is_some()).count();
        let profile = |types: &Types| Profile { types: types.clone(), ..Profile::default() };
        let found = compare::compare(&profile(&btf), &profile(&own));
        println!("{version}: {common} structures in both, {} disagreements", found.total);
        ensure!(common > 350, "{version}: only {common} structures in both");
        ensure!(found.total == 0, "{version}: {:#?}", found.kept);
        ensure!(own.size_of("task_struct").is_some_and(|bytes| bytes > 4000));
    }
    Ok(())
}

fn lynceus(profiles: &Path, args: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lynceus"));
    let output = command.args(args).env("LYNCEUS_PROFILES", profiles).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
}

/// A profile from `vmlinuz` with symbols from its `System.map` and types from a BTF blob is the one from `vmlinuz` alone, and a
/// guest is looked at with it.
#[test]
fn symbols_and_types_come_from_other_files() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let kernel = kernels::fetch(KernelVersion::V6_1)?;
    let whole = kernel_file::load(File::open(&kernel.vmlinuz)?, Elsewhere::default())?.profile;
    let mut map = String::new();
    for symbol in whole.symbols.iter() {
        writeln!(map, "{:016x} {} {}", symbol.address, char::from(symbol.kind), symbol.name)?;
    }
    fs::write(path("System.map"), map)?;
    module::debug_types(&kernel, 5, Path::new(&path("types")))?;
    let vmlinuz = kernel.vmlinuz.display().to_string();
    let profiles = folder.path().join("profiles");
    let args = ["profile", "import", &vmlinuz, "--system-map", &path("System.map")];
    let (code, text) = lynceus(&profiles, &args)?;
    ensure!(code == Some(0) && text.contains(&format!("{} symbols", whole.symbols.len())), "{text}");
    let frozen = images::frozen(&Spec::new(KernelVersion::V6_1, Paging::Four))?;
    let image = frozen.ram.display().to_string();
    let (code, text) = lynceus(&profiles, &["--json", "info", &image])?;
    ensure!(code == Some(0) && text.contains("trusted"), "{text}");
    // Types of a build id of its own would be refused; these have none.
    let args = ["profile", "import", &vmlinuz, "--types", &path("types"), "--profiles", &path("other")];
    let (code, text) = lynceus(&profiles, &args)?;
    ensure!(code == Some(0), "{text}");
    let (code, text) = lynceus(&folder.path().join("other"), &["ps", &image])?;
    ensure!(code == Some(0) && text.contains("lab-plain"), "{text}");
    Ok(())
}

#[test]
fn what_cannot_be_imported_is_said_with_what_to_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(
        path("stub"),
        "ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n",
    )?;
    fs::write(path("map"), "ffffffff81000000 T _text\nffffffff82000000 D init_task\n")?;
    fs::write(path("moved"), "ffffffff9a000000 T _text\n")?;
    fs::write(path("bad"), "ffffffff81000000 T _text\nnothing\n")?;
    fs::write(path("text"), "hello\n")?;
    sample(folder.path(), &["-g0"])?;
    let vmlinuz = kernels::fetch(KernelVersion::V6_1)?.vmlinuz.display().to_string();
    for (args, says) in [
        (&[path("map")][..], "import the kernel's vmlinuz with --system-map"),
        (&[path("text")], "neither a vmlinuz"),
        (&[vmlinuz.clone(), "--system-map".to_owned(), path("stub")], "linux-image-<version>-dbg"),
        (&[vmlinuz.clone(), "--system-map".to_owned(), path("moved")], "a running kernel's addresses"),
        (&[vmlinuz.clone(), "--system-map".to_owned(), path("bad")], "line 2"),
        (&[vmlinuz.clone(), "--system-map".to_owned(), path("map")], "linux_banner"),
        (&[vmlinuz.clone(), "--types".to_owned(), path("sample")], "no debug information"),
        (&[vmlinuz.clone(), "--types".to_owned(), path("text")], "not a BTF"),
        (&[vmlinuz.clone(), "--types".to_owned(), path("missing")], "No such file"),
        (&[path("sample")], "linux_banner"),
    ] {
        let all: Vec<&str> =
            ["profile", "import"].into_iter().chain(args.iter().map(String::as_str)).collect();
        let (code, text) = lynceus(&folder.path().join("profiles"), &all)?;
        ensure!(code == Some(2) && text.contains(says), "{args:?} should say {says:?}: {text}");
    }
    Ok(())
}
