//! Digests as they are defined, and that everything counts.

use super::*;

fn digest(digester: &Digester, bytes: &[u8]) -> Vec<PageDigest> {
    let mut digest = digester.begin(Vec::new());
    digest.update(bytes);
    digest.pages
}

/// NH as it is defined, word by word.
fn reference(digester: &Digester, page: &[u8], shift: usize) -> u128 {
    let key: Vec<u64> = digester.page_key.iter().flatten().copied().collect();
    let words: Vec<u64> =
        page.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect();
    let sum = |index: usize| {
        let word = |index: usize| u128::from(words[index].wrapping_add(key[index + shift]));
        word(2 * index).wrapping_mul(word(2 * index + 1))
    };
    (0..words.len() / 2).map(sum).fold(0, u128::wrapping_add)
}

#[test]
fn pages_are_hashed_as_nh_is_defined() {
    let digester = Digester::of_seed(&[7; 32], None);
    let page: Vec<u8> = (0..PAGE_BYTES).map(|n| ((n * n) >> 3) as u8).collect();
    for page in [page, vec![0; PAGE_BYTES], vec![0xff; PAGE_BYTES]] {
        let [head, whole] =
            [&page[..HEAD_BYTES], &page].map(|part| [0, 2].map(|shift| reference(&digester, part, shift)));
        let tail = u128::from_le_bytes(page[PAGE_BYTES - TAIL_BYTES..].try_into().expect("16 bytes"));
        assert_eq!(digest(&digester, &page), [PageDigest { sums: Sums { head, whole }, tail }]);
    }
}

#[test]
fn every_bit_every_key_and_every_circumstance_counts() {
    counts(None);
    counts(Carryless::new());
}

fn counts(carryless: Option<Carryless>) {
    let (one, other) = (Digester::of_seed(&[1; 32], carryless), Digester::of_seed(&[2; 32], carryless));
    let page = vec![0x5a; PAGE_BYTES];
    let known = digest(&one, &page);
    assert_ne!(known, digest(&other, &page));
    assert_eq!(
        digest(&one, &[0; PAGE_BYTES]),
        [PageDigest { sums: hash_page(&one.page_key, one.carryless.as_ref(), &[0; PAGE_BYTES]), tail: 0 }]
    );
    for bit in (0..PAGE_BYTES * 8).step_by(37) {
        let mut changed = page.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let (now, before) = (digest(&one, &changed)[0], known[0]);
        let differs = |now: [u128; 2], before: [u128; 2]| now.iter().zip(before).all(|(n, b)| *n != b);
        assert!(differs(now.sums.whole, before.sums.whole), "bit {bit}");
        assert_eq!(differs(now.sums.head, before.sums.head), bit / 8 < HEAD_BYTES, "bit {bit}");
        assert_eq!(now.tail != before.tail, bit / 8 >= PAGE_BYTES - TAIL_BYTES, "bit {bit}");
    }
    let layout = Layout { end: 8192, own_bytes: 8192, ..Layout::default() };
    let of = |layout: &Layout, runs: &[(u64, u64)]| {
        let mut digest = one.begin(Vec::new());
        digest.update(&page);
        digest.end(layout, runs.iter().copied()).0
    };
    let first = of(&layout, &[(0, 4096)]);
    assert_ne!(first, of(&layout, &[(4096, 4096)]), "where it lies");
    assert_ne!(first, of(&Layout { is_file: true, ..layout.clone() }, &[(0, 4096)]));
    assert_ne!(first, of(&Layout { own_bytes: 4096, ..layout.clone() }, &[(0, 4096)]));
    assert_eq!(first, of(&Layout { start: 8192, end: 16384, ..layout.clone() }, &[(0, 4096)]));
    let within = |parts: &[&[u8]]| first.within(one.circumstances(parts));
    assert_ne!(within(&[b"ab", b"c"]), within(&[b"a", b"bc"]));
    assert_ne!(within(&[b"ab", b"c"]), first.within(other.circumstances(&[b"ab", b"c"])));
    assert!([within(&[b"ab", b"c"]), within(&[])].iter().all(|here| *here != first));
}

/// NH promises nothing for what differs in length alone: everything that a window depends on has its place.
#[test]
fn everything_that_a_window_depends_on_counts() {
    let digester = Digester::of_seed(&[3; 32], None);
    let of = |head, whole, tail| PageDigest { sums: Sums { head, whole }, tail };
    let (rules, others) = ([7; 32], [8; 32]);
    let page = of([1, 2], [3, 4], 5);
    let one = Surroundings {
        page: &page,
        before: Some(&page),
        behind: Some(&page),
        len_bytes: 4096,
        behind_bytes: 1024,
        rules: &rules,
    };
    let (whole, tail) = (of([1, 2], [3, 5], 5), of([1, 2], [3, 4], 6));
    let (head, none) = (of([1, 3], [3, 4], 5), of([0, 0], [0, 0], 0));
    let all = [
        one,
        Surroundings { page: &whole, ..one },
        Surroundings { before: Some(&tail), ..one },
        Surroundings { before: Some(&none), ..one },
        Surroundings { before: None, ..one },
        Surroundings { behind: Some(&head), ..one },
        Surroundings { behind: Some(&none), ..one },
        Surroundings { behind: None, ..one },
        Surroundings { len_bytes: 4095, ..one },
        Surroundings { behind_bytes: 0, ..one },
        Surroundings { rules: &others, ..one },
    ];
    let keys: std::collections::HashSet<_> = all.iter().map(|what| digester.window(*what)).collect();
    assert_eq!(keys.len(), all.len());
    assert_eq!(digester.window(one), digester.window(one));
    // What lies elsewhere in the pages around does not count.
    let far = Surroundings { before: Some(&whole), behind: Some(&whole), ..one };
    assert_eq!(digester.window(one), digester.window(far));
    let other = Digester::of_seed(&[4; 32], None);
    assert_ne!(digester.window(one), other.window(one));
}

#[test]
fn keys_are_made_anew() {
    let [one, other] = [(); 2].map(|()| Digester::new().expect("random numbers"));
    assert_ne!(one.page_key, other.page_key);
    assert_eq!(format!("{one:?}"), "Digester", "keys are not printed");
}
