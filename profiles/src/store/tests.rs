use super::*;
use crate::{BuildId, SymbolsBuilder, Type, TypesBuilder};
use std::os::unix::fs::PermissionsExt;

fn profile() -> Profile {
    let mut symbols = SymbolsBuilder::default();
    symbols.push("_text", 0xffff_ffff_8100_0000, b'T');
    symbols.push("init_task", 0xffff_ffff_8200_0000, b'D');
    let mut types = TypesBuilder::default();
    let void = types.push(Type::Opaque);
    let int = types.push(Type::Integer { bytes: 4, signed: true, bits: Some((0, 32)) });
    let pointer = types.push(Type::Pointer { target: void });
    let array = types.push(Type::Array { element: int, count: 3 });
    let alias = types.push(Type::Alias(array));
    let record = types.record("task_struct", 32, false);
    types.member("pid", int, 0, 0);
    types.member("flag", int, 32, 3);
    types.member("mm", pointer, 64, 0);
    types.member("three", alias, 128, 0);
    types.push(Type::Composite { record });
    types.enumerator("PIDTYPE_TGID", -1);
    let identity = Identity {
        build_id: Some(BuildId([7; 20])),
        banner: "Linux version 6.1".to_owned(),
        release: "6.1".to_owned(),
    };
    Profile { identity, symbols: symbols.build(), types: types.build() }
}

fn header(origin: Origin, seed: u8) -> Header {
    let ranges = vec![SourceRange { offset_from_text: 4096, len_bytes: 3 }];
    let mut hasher = SourceHasher::default();
    hasher.range(ranges[0]);
    hasher.bytes(&[seed, 1, 2]);
    Header {
        origin,
        identity: profile().identity,
        banner_offset: Some(-8),
        build_id_offset: None,
        digest: hasher.finish(),
        ranges,
    }
}

fn store() -> (tempfile::TempDir, ProfileStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ProfileStore::open(directory.path().join("profiles")).unwrap();
    (directory, store)
}

#[test]
fn a_profile_comes_back_as_it_was() {
    let (_keep, store) = store();
    for origin in [Origin::Learned, Origin::Trusted] {
        let header = header(origin, 0);
        store.save(&header, &profile()).unwrap();
        let loaded = store.load(&header).unwrap();
        assert_eq!(loaded.symbols, profile().symbols);
        assert_eq!(loaded.types, profile().types);
        assert_eq!(loaded.identity, profile().identity);
        let mode = fs::metadata(store.path(&header).unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let origins: Vec<Origin> = store.headers().unwrap().iter().map(|header| header.origin).collect();
    assert_eq!(origins, [Origin::Trusted, Origin::Learned]);
    let other = |change: fn(&mut Identity)| {
        let mut identity = profile().identity;
        change(&mut identity);
        store.trusted(&identity).is_some()
    };
    assert!(other(|_| ()));
    assert!(!other(|identity| identity.build_id = Some(BuildId([8; 20]))));
    assert!(!other(|identity| identity.banner.push('x')));
}

#[test]
fn learned_profiles_of_one_build_do_not_replace_each_other() {
    let (_keep, store) = store();
    store.save(&header(Origin::Learned, 1), &profile()).unwrap();
    store.save(&header(Origin::Learned, 2), &Profile::default()).unwrap();
    assert_eq!(store.headers().unwrap().len(), 2);
    assert_eq!(store.load(&header(Origin::Learned, 1)).unwrap().symbols, profile().symbols);
}

#[test]
fn a_digest_binds_the_place_as_well_as_the_bytes() {
    let digest = |offset_from_text, bytes: &[u8]| {
        let mut hasher = SourceHasher::default();
        hasher.range(SourceRange { offset_from_text, len_bytes: bytes.len() as u64 });
        hasher.bytes(bytes);
        hasher.finish()
    };
    assert_eq!(digest(0, b"ab"), digest(0, b"ab"));
    assert_ne!(digest(0, b"ab"), digest(8, b"ab"));
    assert_ne!(digest(0, b"ab"), digest(0, b"ac"));
}

#[test]
fn the_learned_profile_used_longest_ago_goes_first() {
    let (_keep, store) = store();
    for seed in 0..=MAX_LEARNED as u8 {
        store.save(&header(Origin::Learned, seed), &Profile::default()).unwrap();
        if seed == 1 {
            let old = File::open(store.path(&header(Origin::Learned, 1)).unwrap()).unwrap();
            old.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
    }
    assert_eq!(store.headers().unwrap().len(), MAX_LEARNED);
    assert!(store.load(&header(Origin::Learned, 1)).is_err());
    assert!(store.path(&header(Origin::Learned, 0)).unwrap().exists());
}

#[test]
fn damage_is_an_error_wherever_it_is() {
    let file = format::encode(&header(Origin::Learned, 0), &profile()).unwrap();
    assert!(decode(&file).is_ok());
    for cut in 0..file.len() {
        assert!(decode(&file[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 0x41;
        assert!(decode(&bad).is_err(), "damaged at {at}");
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let (keep, _) = store();
    let open = keep.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(ProfileStore::open(&open), Err(StoreError::Insecure(_))));
}

#[test]
fn a_trusted_profile_without_a_build_id_is_found_by_its_banner() {
    let (_keep, store) = store();
    let mut header = header(Origin::Trusted, 0);
    header.identity.build_id = None;
    let profile = Profile { identity: header.identity.clone(), ..profile() };
    store.save(&header, &profile).unwrap();
    assert!(store.trusted(&self::profile().identity).is_some());
}

#[test]
fn an_opened_store_needs_its_directory_no_more() {
    let (keep, store) = store();
    let (trusted, learned, new) =
        (header(Origin::Trusted, 0), header(Origin::Learned, 1), header(Origin::Learned, 2));
    store.save(&trusted, &profile()).unwrap();
    store.save(&learned, &profile()).unwrap();
    store.keep_kernel(&profile().identity, &mut &b"a kernel"[..]).unwrap();
    let opened = store.opened("web").unwrap();
    drop(keep);
    assert!(store.headers().is_err(), "the directory is gone");
    assert_eq!(opened.headers().unwrap(), [trusted.clone(), learned.clone()]);
    for header in [&trusted, &learned, &trusted] {
        assert_eq!(opened.load(header).unwrap().symbols, profile().symbols);
    }
    assert_eq!(opened.trusted(&profile().identity), Some(trusted));
    let mut kernel = String::new();
    opened.kernel(&profile().identity).unwrap().read_to_string(&mut kernel).unwrap();
    assert_eq!(kernel, "a kernel");
    assert!(opened.load(&new).is_err());
    opened.save(&new, &profile()).unwrap();
    let given_back = opened.take_learned();
    assert_eq!(given_back.len(), 1);
    assert_eq!(decode(&given_back[0]).unwrap().0, new);
    assert!(opened.take_learned().is_empty());
}

/// A worker that a guest took over may hand back anything: that is its own VM's misfortune and nobody else's.
#[test]
fn what_a_worker_hands_back_is_for_its_own_vm_and_never_trusted() {
    let (_keep, store) = store();
    let given_back =
        |origin, seed| format::encode(&header(origin, seed), &profile()).expect("it can be encoded");
    store.keep_for("web", &given_back(Origin::Learned, 1)).unwrap();
    store.keep_for("web", &given_back(Origin::Trusted, 1)).unwrap();
    store.keep_for("web", b"no profile at all").unwrap();
    assert_eq!(store.opened("web").unwrap().headers().unwrap(), [header(Origin::Learned, 1)]);
    assert!(store.opened("web").unwrap().trusted(&profile().identity).is_none());
    assert!(store.opened("db").unwrap().headers().unwrap().is_empty());
    assert!(store.headers().unwrap().is_empty());
    for seed in 0..9 {
        store.keep_for("web", &given_back(Origin::Learned, seed)).unwrap();
    }
    assert_eq!(store.opened("web").unwrap().headers().unwrap().len(), opened::MAX_LEARNED_OF_VM);
}
