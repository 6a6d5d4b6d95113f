//! `lynceus profile`: what is known of kernel builds.

use crate::attach::{Guest, open_regular, open_store};
use crate::cli::{ImportArgs, LookArgs, ProfileCommand};
use crate::output::{Column, Outcome, Output, Row, escape};
use anyhow::{Context, Result, bail};
use lynceus_introspect::Partial;
use lynceus_profiles::kernel_file::{self, Elsewhere, TypesFile};
use lynceus_profiles::store::{Header, Origin};
use lynceus_profiles::{FieldKind, Profile, Symbols, isf, system_map};
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Does what the command line says.
pub(super) fn run(output: Output, command: ProfileCommand) -> Result<Outcome> {
    match command {
        ProfileCommand::List { look } => list(output, &look),
        ProfileCommand::Show { profile, type_name, symbol, look } => {
            show(output, &profile, type_name.as_deref(), symbol.as_deref(), &look)
        }
        ProfileCommand::Build { target, out, look } => build(&target, &out, &look),
        ProfileCommand::Import(args) => import(&args),
    }
}

/// A stored profile.
#[derive(Serialize)]
struct ProfileRow {
    origin: &'static str,
    release: String,
    build_id: Option<String>,
    banner: String,
}

impl From<&Header> for ProfileRow {
    fn from(header: &Header) -> ProfileRow {
        ProfileRow {
            origin: match header.origin {
                Origin::Trusted => "trusted",
                Origin::Learned => "learned",
            },
            release: header.identity.release.clone(),
            build_id: header.identity.build_id.map(|id| id.to_string()),
            banner: header.identity.banner.clone(),
        }
    }
}

impl Row for ProfileRow {
    const COLUMNS: &'static [Column] =
        &[Column::left("ORIGIN"), Column::left("RELEASE"), Column::left("BUILD ID"), Column::left("BANNER")];
    fn cells(&self) -> Vec<String> {
        let id = self.build_id.clone().unwrap_or_else(|| "-".to_owned());
        vec![self.origin.to_owned(), self.release.clone(), id, self.banner.clone()]
    }
}

fn list(output: Output, look: &LookArgs) -> Result<Outcome> {
    let items = open_store(look)?.headers()?.iter().map(ProfileRow::from).collect();
    output.listing("profiles", &Partial { items, ..Partial::default() })
}

/// Keeps a profile from a file that the admin trusts.
fn import(args: &ImportArgs) -> Result<Outcome> {
    let symbols = args.system_map.as_deref().map(read_system_map).transpose()?;
    let types = args.types.as_deref().map(read_types).transpose()?;
    let Loaded { profile, build_id_offset, is_kernel } = load(&args.file, Elsewhere { symbols, types })?;
    let header = Header::trusted(&profile, build_id_offset);
    let store = open_store(&args.look)?;
    store.save(&header, &profile)?;
    if is_kernel && let Err(error) = store.keep_kernel(&header.identity, &mut open_regular(&args.file)?) {
        eprintln!("lynceus: check will not compare with this kernel's code: {error}");
    }
    let id = header.identity.build_id.map_or_else(|| "no build id".to_owned(), |id| format!("build id {id}"));
    println!(
        "imported {}: {id}, {} symbols, {} types, into {}",
        escape(&header.identity.release),
        profile.symbols.len(),
        profile.types.len(),
        store.directory().display()
    );
    Ok(Outcome::Clean)
}

/// What a file gave.
struct Loaded {
    profile: Profile,
    build_id_offset: Option<i64>,
    /// It was the kernel's own file.
    is_kernel: bool,
}

/// A profile from a kernel's own file or an ISF file, told apart by their first bytes.
fn load(path: &Path, elsewhere: Elsewhere) -> Result<Loaded> {
    let named = || path.display().to_string();
    let mut file = open_regular(path)?;
    let mut start = Vec::new();
    Read::take(&mut file, 4096).read_to_end(&mut start).with_context(named)?;
    let is_xz = start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z']);
    if is_xz || start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
        if elsewhere.symbols.is_some() || elsewhere.types.is_some() {
            bail!(
                "{}: Volatility 3 symbols have symbols and types; nothing can be added to them",
                path.display()
            );
        }
        Read::take(&mut file, isf::MAX_FILE_BYTES).read_to_end(&mut start).with_context(named)?;
        let profile = isf::read(&start).with_context(named)?;
        return Ok(Loaded { profile, build_id_offset: None, is_kernel: false });
    }
    if system_map::is_like(&start) {
        bail!(
            "{}: a System.map has no types: import the kernel's vmlinuz with --system-map {}",
            path.display(),
            path.display()
        );
    }
    let kernel = kernel_file::load(file, elsewhere).with_context(named)?;
    Ok(Loaded { profile: kernel.profile, build_id_offset: kernel.build_id_offset, is_kernel: true })
}

fn read_system_map(path: &Path) -> Result<Symbols> {
    let named = || path.display().to_string();
    let mut text = Vec::new();
    let limit = system_map::MAX_FILE_BYTES.saturating_add(1);
    open_regular(path)?.take(limit).read_to_end(&mut text).with_context(named)?;
    system_map::parse(&text).with_context(named)
}

fn read_types(path: &Path) -> Result<TypesFile> {
    kernel_file::types_of(open_regular(path)?).with_context(|| path.display().to_string())
}

/// Writes the profile of a guest, or of a file, as ISF.
fn build(target: &str, out: &Path, look: &LookArgs) -> Result<Outcome> {
    let guest = Guest::attach(target, look)?;
    let profile = &guest.linux().kernel().profile;
    let file = File::create_new(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut file = BufWriter::new(file);
    isf::write(profile, &mut file).and_then(|()| file.flush()).with_context(|| out.display().to_string())?;
    println!("{}: symbols of {}", out.display(), escape(&profile.identity.release));
    Ok(Outcome::Clean)
}

/// A member of a structure.
#[derive(Serialize)]
struct MemberRow {
    offset: u32,
    size: u32,
    bits: Option<(u8, u8)>,
    kind: &'static str,
    name: String,
}

impl Row for MemberRow {
    const COLUMNS: &'static [Column] = &[
        Column::right("OFFSET"),
        Column::right("SIZE"),
        Column::left("BITS"),
        Column::left("KIND"),
        Column::left("NAME"),
    ];
    fn cells(&self) -> Vec<String> {
        let bits = self.bits.map_or_else(String::new, |(first, width)| format!("{first}+{width}"));
        vec![self.offset.to_string(), self.size.to_string(), bits, self.kind.to_owned(), self.name.clone()]
    }
}

/// What `profile show` tells of a profile.
#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    header: ProfileRow,
    symbols: usize,
    types: usize,
    unavailable_views: Vec<String>,
}

fn show(
    output: Output,
    wanted: &str,
    ty: Option<&str>,
    symbol: Option<&str>,
    look: &LookArgs,
) -> Result<Outcome> {
    let (profile, header) = find(wanted, look)?;
    if let Some(name) = symbol {
        let address = profile.symbol(name)?;
        println!("{address:#x}");
        return Ok(Outcome::Clean);
    }
    if let Some(ty) = ty {
        let members = profile.types.members_of(ty).with_context(|| format!("no structure `{ty}`"))?;
        let row = |(name, field): (&str, lynceus_profiles::Field)| MemberRow {
            offset: field.offset,
            size: field.size,
            bits: field.bits,
            kind: kind(field.kind),
            name: name.to_owned(),
        };
        let items = members.into_iter().map(row).collect();
        return output.listing("members", &Partial { items, ..Partial::default() });
    }
    let unavailable_views = lynceus_introspect::linux::Layouts::resolve(&profile).unavailable();
    let summary =
        Summary { header, symbols: profile.symbols.len(), types: profile.types.len(), unavailable_views };
    if output.is_json() {
        output.json_line(&summary)?;
    } else {
        println!(
            "{}  {} symbols, {} types",
            summary.header.cells().join("  "),
            summary.symbols,
            summary.types
        );
        summary.unavailable_views.iter().for_each(|view| println!("unavailable: {}", escape(view)));
    }
    Ok(Outcome::Clean)
}

/// A stored profile by the start of its build id or by its release, or one from a file.
fn find(wanted: &str, look: &LookArgs) -> Result<(Profile, ProfileRow)> {
    let path = Path::new(wanted);
    if path.is_file() {
        let Loaded { profile, build_id_offset: offset, .. } = load(path, Elsewhere::default())?;
        let row = ProfileRow::from(&Header::trusted(&profile, offset));
        return Ok((profile, row));
    }
    let store = open_store(look)?;
    let headers = store.headers()?;
    let fits = |header: &&Header| {
        let id = header.identity.build_id.map(|id| id.to_string()).unwrap_or_default();
        header.identity.release == wanted || (wanted.len() >= 4 && id.starts_with(wanted))
    };
    let found: Vec<&Header> = headers.iter().filter(fits).collect();
    match found.as_slice() {
        [] => bail!("no profile {wanted} (`lynceus profile list` shows those there are)"),
        // Trusted ones come first; several learned ones of a build differ in bytes that no view needs.
        [header, ..] => Ok((Arc::unwrap_or_clone(store.load(header)?), ProfileRow::from(*header))),
    }
}

fn kind(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Integer { signed: true } => "signed",
        FieldKind::Integer { signed: false } => "unsigned",
        FieldKind::Pointer => "pointer",
        FieldKind::Composite => "struct",
        FieldKind::Array { .. } => "array",
        FieldKind::Other => "-",
    }
}
