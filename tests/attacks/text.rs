//! The kernel's code and constants changed where and how rootkits change them, and where the kernel itself does: what only
//! looks like a rewrite of its own is found as well.

use crate::hostile::Hostile;
use lynceus_introspect::Gva;
use lynceus_introspect::linux::OtherKernel;
use lynceus_introspect::observe::Options;
use lynceus_lab::{KernelVersion, kernels};
use lynceus_profiles::kernel_file::{KernelImage, Patch, PatchSite};
use lynceus_scanners::{Finding, Severity, Subject, kernel_constants, kernel_text};
use std::fs::File;
use std::sync::{Arc, LazyLock};

static IMAGES: LazyLock<[(KernelVersion, Arc<KernelImage>); 4]> = LazyLock::new(|| {
    KernelVersion::ALL.map(|version| {
        let file = kernels::fetch(version).expect("a kernel").vmlinuz;
        let image = KernelImage::load(File::open(file).expect("its file")).expect("its image");
        (version, Arc::new(image))
    })
});

pub(crate) fn image(version: KernelVersion) -> Arc<KernelImage> {
    IMAGES.iter().find(|(known, _)| *known == version).expect("all of them").1.clone()
}

/// What a worker maps is what it would have read out of the file itself, and a block that is cut off is no kernel.
#[test]
fn an_image_that_was_unpacked_is_the_same_where_it_is_mapped() {
    for (_, image) in IMAGES.iter() {
        let mut block = Vec::new();
        image.unpacked("digest").write(&mut block).expect("it is written");
        assert_eq!(block.len() as u64, image.unpacked("digest").len_bytes());
        let cut =
            |len: usize| KernelImage::mapped(&block.get(..len).expect("a part").to_vec().into(), "digest");
        for len in [0, 8, 11, 12, 400, block.len() / 2, block.len() - 1] {
            assert!(cut(len).is_err(), "cut off at {len}");
        }
        let block = block.into();
        assert!(KernelImage::mapped(&block, "another digest").is_err());
        let mapped = KernelImage::mapped(&block, "digest").expect("it is mapped");
        assert!(mapped.identity == image.identity && mapped.symbols == image.symbols);
        assert!(mapped.sections() == image.sections() && mapped.patch_sites() == image.patch_sites());
        assert!(mapped.patch_sites().len() > 10_000);
        let (start, end) = (
            image.symbols.address("_stext").expect("text"),
            image.symbols.address("__end_rodata").expect("data"),
        );
        let slid = |image: &KernelImage| image.relocated(start, end, 0x1a00_0000);
        assert!(slid(&mapped).is_some() && slid(&mapped) == slid(image));
    }
}

/// What is found in the text and in the constants, compared with the kernel's own file.
fn compared(guest: &Hostile) -> (Vec<Finding>, Vec<Finding>) {
    let mut attached = guest.attach().expect("its kernel").guest;
    attached.set_image(image(guest.version())).expect("its own image");
    let (text, constants) =
        (kernel_text(&attached, &Options::default()), kernel_constants(&attached, &Options::default()));
    assert!(text.is_complete() && constants.is_complete(), "{:?} {:?}", text.gaps, constants.gaps);
    (text.items, constants.items)
}

/// What is found in the text with nothing to compare it with.
fn alone(guest: &Hostile) -> Vec<Finding> {
    let found = kernel_text(&guest.attach().expect("its kernel").guest, &Options::default());
    assert!(found.is_complete(), "{:?}", found.gaps);
    found.items
}

fn place(finding: &Finding) -> Gva {
    match &finding.subject {
        Subject::Kernel { address, .. } => Gva(*address),
        other => panic!("{other:?}"),
    }
}

/// A jump or call (0xe9, 0xe8) from `at` to `to`.
fn branch(code: u8, at: Gva, to: Gva) -> Vec<u8> {
    let distance = to.0.wrapping_sub(at.0 + 5) as u32;
    [vec![code], distance.to_le_bytes().to_vec()].concat()
}

/// Code of a module, and a place near enough for a jump where nobody's is.
fn elsewhere(guest: &Hostile) -> [Gva; 2] {
    let module = guest.look(|view| view.modules()).items.swap_remove(0);
    [Gva(module.base.0 + 0x40), Gva(0xffff_ffff_c0ff_0100)]
}

fn guests() -> Vec<Hostile> {
    KernelVersion::ALL.into_iter().map(Hostile::of).collect()
}

#[test]
fn every_byte_that_the_kernel_does_not_rewrite_is_watched() {
    for mut guest in guests() {
        let image = image(guest.version());
        let (start, end) =
            (image.symbols.address("_stext").expect("text"), image.symbols.address("_etext").expect("text"));
        let in_site = |at: u64| {
            let sites = image.patch_sites();
            let above = sites.partition_point(|site| site.at <= at);
            sites.iter_to(above).rev().take(64).any(|site| site.end > at)
        };
        // A hundred places all over the text, none of them near another.
        let step = (end - start) / 100;
        let places: Vec<u64> = (0..100)
            .map(|index| (start + index * step..).find(|at| !in_site(*at)).expect("a place"))
            .collect();
        for at in &places {
            let at = guest.kernel.slid(*at);
            let mut byte = [0];
            guest.look(|view| view.space().read(at, &mut byte)).expect("text");
            guest.write(at, &[byte[0] ^ 1]);
        }
        let (text, constants) = compared(&guest);
        let found: Vec<Gva> = text.iter().map(place).collect();
        let changed: Vec<Gva> = places.iter().map(|at| guest.kernel.slid(*at)).collect();
        assert_eq!(found, changed);
        assert!(constants.is_empty() && text.iter().all(|finding| finding.severity == Severity::Critical));
    }
}

/// What an attacker writes to a site of this kind, so that it leads to `to`.
fn disguise(site: &PatchSite, at: Gva, to: Gva) -> Vec<u8> {
    match site.patch {
        Patch::StaticKey(_) => branch(0xe9, at, to),
        Patch::Lock => vec![0x90],
        Patch::Landing => vec![0xeb, 0x10, 0x90, 0x90],
        Patch::Constant(_) => vec![0x41; (site.end - site.at) as usize],
        Patch::Hypercalls => branch(0xe9, at, to),
        Patch::Alternative(..) | Patch::Paravirt if site.end - site.at < 5 => {
            vec![0x41; (site.end - site.at) as usize]
        }
        Patch::Return => branch(0xe9, at, to),
        _ => branch(0xe8, at, to),
    }
}

/// A kind of rewriting, and what is of it.
type Kind = (&'static str, fn(&Patch) -> bool);

#[test]
fn a_rewrite_that_the_kernel_would_not_do_is_found() {
    let kinds: [Kind; 10] = [
        ("static key", |patch| matches!(patch, Patch::StaticKey(_))),
        ("trace", |patch| matches!(patch, Patch::Trace)),
        ("lock", |patch| matches!(patch, Patch::Lock)),
        ("thunk", |patch| matches!(patch, Patch::Thunk)),
        ("return", |patch| matches!(patch, Patch::Return)),
        ("landing", |patch| matches!(patch, Patch::Landing)),
        ("alternative", |patch| matches!(patch, Patch::Alternative(..))),
        ("paravirt", |patch| matches!(patch, Patch::Paravirt)),
        ("static call", |patch| matches!(patch, Patch::StaticCall)),
        ("constant", |patch| matches!(patch, Patch::Constant(Some(_)))),
    ];
    for clean in guests() {
        let image = image(clean.version());
        let text =
            image.symbols.address("_stext").expect("text")..image.symbols.address("_etext").expect("text");
        for (kind, is_one) in kinds {
            // Kernels lack some of them; the middle one of each kind, where no other site lies as well.
            let sites = image.patch_sites();
            let alone = |site: &PatchSite| {
                let above = sites.partition_point(|other| other.at < site.end);
                sites.iter_to(above).rev().take(64).filter(|other| other.end > site.at).count() == 1
            };
            let all: Vec<PatchSite> = sites
                .iter()
                .filter(|site| is_one(&site.patch) && text.contains(&site.at))
                .filter(alone)
                .collect();
            let Some(site) = all.get(all.len() / 2) else { continue };
            // What a static call leads to may well be a module's.
            let targets = elsewhere(&clean);
            for target in targets.into_iter().skip(usize::from(kind == "static call")) {
                let mut guest = clean.clone();
                let at = guest.kernel.slid(site.at);
                guest.write(at, &disguise(site, at, target));
                let (found, _) = compared(&guest);
                assert_eq!(found.len(), 1, "{kind} at {at}: {found:#?}");
                let near = place(&found[0]);
                assert!(near >= at && near.0 < at.0 + 16, "{kind}: {found:#?}");
            }
        }
    }
}

#[test]
fn functions_that_begin_elsewhere_are_found_without_a_file() {
    for clean in guests() {
        let at = clean.symbol("__x64_sys_kexec_load");
        assert!(alone(&clean).is_empty());
        for target in elsewhere(&clean) {
            let absolute = target.0.to_le_bytes();
            let ways = [
                branch(0xe9, at, target),
                branch(0xe8, at, target),
                // mov $target,%rax; jmp *%rax
                [&[0x48, 0xb8][..], &absolute, &[0xff, 0xe0]].concat(),
                // mov $target,%rax; push %rax; ret
                [&[0x48, 0xb8][..], &absolute, &[0x50, 0xc3]].concat(),
                // endbr64; jmp target
                [vec![0xf3, 0x0f, 0x1e, 0xfa], branch(0xe9, Gva(at.0 + 4), target)].concat(),
            ];
            for way in ways {
                let mut guest = clean.clone();
                guest.write(at, &way);
                let found = alone(&guest);
                assert_eq!(found.len(), 1, "{way:02x?}: {found:#?}");
                assert!(
                    found[0].summary.starts_with("__x64_sys_kexec_load begins with"),
                    "{}",
                    found[0].summary
                );
                assert!(found[0].summary.contains(&format!("{target}")), "{}", found[0].summary);
            }
        }
    }
}

#[test]
fn a_changed_constant_is_found_with_its_name() {
    for mut guest in guests() {
        let table = guest.symbol("sys_call_table");
        let code = elsewhere(&guest)[0];
        guest.u64(Gva(table.0 + 8 * 217), code.0);
        let (text, constants) = compared(&guest);
        assert!(text.is_empty(), "{text:#?}");
        assert_eq!(constants.len(), 1, "{constants:#?}");
        assert!(constants[0].summary.contains("the constant sys_call_table+0x6"), "{}", constants[0].summary);
    }
}

#[test]
fn a_file_of_another_build_is_refused() {
    let mut attached = Hostile::new().attach().expect("its kernel").guest;
    let refused: OtherKernel = attached.set_image(image(KernelVersion::V6_12)).expect_err("another kernel");
    assert!(refused.guest.contains("6.1.") && refused.file.contains("6.12."), "{refused}");
    assert!(attached.image().is_none());
}
