use super::*;
use std::thread;

fn payload(text: impl ToString) -> Vec<u8> {
    text.to_string().into_bytes()
}

fn open(folder: &Path) -> (Spool, Option<Damage>) {
    Spool::open(folder, MIN_SPOOL_BYTES).unwrap()
}

/// All that `sink` has not acknowledged, and what was damaged.
fn rest(spool: &Spool, sink: &str) -> (Vec<(u64, String)>, Vec<Damage>) {
    let mut reader = spool.reader(sink);
    let (mut records, mut damage) = (Vec::new(), Vec::new());
    loop {
        let piece = reader.next(7).unwrap();
        if piece.records.is_empty() && piece.damage.is_empty() {
            return (records, damage);
        }
        records.extend(
            piece.records.into_iter().map(|(number, bytes)| (number, String::from_utf8(bytes).unwrap())),
        );
        damage.extend(piece.damage);
    }
}

fn texts(spool: &Spool, sink: &str) -> Vec<String> {
    rest(spool, sink).0.into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_sink_goes_on_where_it_was_and_a_new_one_gets_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    spool.keep_sinks(&["a"]).unwrap();
    assert_eq!(spool.waiting("a"), 0);
    spool.append(&[payload("one"), payload("two")]).unwrap();
    let (records, _) = rest(&spool, "a");
    spool.acknowledge("a", records[0].0).unwrap();
    drop(spool);
    let (spool, torn) = open(folder.path());
    assert_eq!(torn, None);
    spool.append(&[payload("three")]).unwrap();
    assert_eq!((spool.waiting("a"), spool.waiting("b")), (2, 3));
    assert_eq!(texts(&spool, "a"), ["two", "three"]);
    assert_eq!(texts(&spool, "b"), ["one", "two", "three"]);
    let numbers: Vec<u64> = rest(&spool, "b").0.iter().map(|(number, _)| *number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b));
}

#[test]
fn a_spool_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    assert!(matches!(Spool::open(folder.path(), MIN_SPOOL_BYTES), Err(SpoolError::InUse(_))));
    drop(spool);
    open(folder.path());
}

#[test]
fn what_every_sink_has_is_removed_and_numbers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    spool.keep_sinks(&["fast", "slow"]).unwrap();
    for _ in 0..100 {
        spool.append(&[vec![b'x'; 4000]]).unwrap();
    }
    let full = spool.usage();
    spool.acknowledge("fast", full.last).unwrap();
    assert_eq!(spool.usage().bytes, full.bytes);
    spool.acknowledge("slow", full.last).unwrap();
    assert!(spool.usage().bytes <= MIN_SPOOL_BYTES / 8 + 4096, "only the last segment is left");
    drop(spool);
    let (spool, _) = open(folder.path());
    spool.append(&[payload("next")]).unwrap();
    assert_eq!(rest(&spool, "fast").0, [(full.last + 1, "next".to_owned())]);
}

#[test]
fn a_full_spool_refuses_and_still_says_so_and_takes_again() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    spool.keep_sinks(&["a"]).unwrap();
    let mut kept = 0;
    let error = loop {
        match spool.append(&[vec![b'x'; 4000]]) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SpoolError::Full { limit_bytes: MIN_SPOOL_BYTES }));
    spool.wait(spool.enqueue_reserved(&[payload("full")]).unwrap()).unwrap();
    let all = texts(&spool, "a");
    assert_eq!((all.len(), all.last().unwrap().as_str()), (kept + 1, "full"));
    assert!(spool.usage().bytes <= MIN_SPOOL_BYTES);
    spool.acknowledge("a", spool.usage().last).unwrap();
    spool.append(&[vec![b'x'; 4000]]).unwrap();
}

#[test]
fn a_full_spool_waits_for_no_sink_that_it_was_told_not_to_wait_for() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    spool.keep_sinks(&["dead", "lives"]).unwrap();
    spool.expend(&["dead"]);
    let mut raised = 0;
    for _ in 0..1000 {
        spool.append(&[vec![b'x'; 4000]]).unwrap();
        raised += 1;
        spool.acknowledge("lives", spool.usage().last).unwrap();
    }
    assert!(spool.usage().bytes <= MIN_SPOOL_BYTES);
    let missed = spool.take_missed();
    let left = texts(&spool, "dead").len() as u64;
    assert_eq!(missed.get("dead"), Some(&(raised - left)), "{missed:?}, {left} left");
    assert!(left > 100 && missed.len() == 1 && spool.take_missed().is_empty());
    // What nobody has stays.
    spool.expend(&["dead", "lives"]);
    let mut kept = 0;
    while spool.append(&[vec![b'x'; 4000]]).is_ok() {
        kept += 1;
    }
    assert_eq!((texts(&spool, "lives").len(), spool.usage().bytes <= MIN_SPOOL_BYTES), (kept, true));
}

/// A bug that was: one write made the last segment as large as the spool may be, and the last one is not removed.
#[test]
fn a_spool_that_is_full_of_one_segment_that_everybody_has_takes_again() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    spool.keep_sinks(&["a"]).unwrap();
    let tickets: Vec<Ticket> = (0..185).map(|_| spool.enqueue(&[vec![b'x'; 4000]]).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| spool.wait(ticket).unwrap());
    spool.append(&[vec![b'x'; 60_000]]).unwrap_err();
    let mut reader = spool.reader("a");
    while !reader.next(500).unwrap().records.is_empty() {}
    spool.acknowledge("a", spool.usage().last).unwrap();
    spool.append(&[vec![b'y'; 60_000]]).unwrap();
    assert_eq!(reader.next(500).unwrap().records.len(), 1);
    drop((spool, reader));
    let (spool, torn) = open(folder.path());
    assert_eq!((torn, texts(&spool, "a").len()), (None, 1));
}

#[test]
fn a_torn_end_is_cut_off_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    spool.append(&[payload("whole"), payload("torn")]).unwrap();
    let path = segments::path(folder.path(), lock(&spool.0.tail).active);
    drop(spool);
    let len = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(len - 2).unwrap();
    let (spool, torn) = open(folder.path());
    let torn = torn.unwrap();
    assert_eq!((torn.file, torn.len_bytes, torn.torn), (path, 20 + 2, true));
    spool.append(&[payload("after")]).unwrap();
    assert_eq!(rest(&spool, "a").1, []);
    assert_eq!(texts(&spool, "a"), ["whole", "after"]);
}

#[test]
fn damage_in_the_middle_costs_what_is_there_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    for number in 0..20 {
        spool.append(&[payload(format!("record {number:03}"))]).unwrap();
    }
    let path = segments::path(folder.path(), lock(&spool.0.tail).active);
    let mut bytes = fs::read(&path).unwrap();
    // A record has 30 bytes here: this hits the sixth and the seventh.
    bytes[5 * 30 + 25..6 * 30 + 4].fill(0);
    fs::write(&path, bytes).unwrap();
    let check = |spool: &Spool| {
        let (records, damage) = rest(spool, "a");
        assert_eq!(records.len(), 18);
        assert_eq!(damage, [Damage { file: path.clone(), offset: 150, len_bytes: 60, torn: false }]);
    };
    check(&spool);
    drop(spool);
    let (spool, torn) = open(folder.path());
    assert_eq!(torn, None);
    check(&spool);
}

#[test]
fn a_damaged_last_record_is_waited_for_by_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    spool.append(&[payload("one"), payload("two")]).unwrap();
    let path = segments::path(folder.path(), lock(&spool.0.tail).active);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let last = spool.usage().last;
    let mut reader = spool.reader("a");
    while !reader.next(9).map(|piece| piece.records.is_empty() && piece.damage.is_empty()).unwrap() {}
    spool.stop();
    assert_eq!(reader.wait(std::time::Duration::ZERO), Wait::Stopped);
    drop((reader, spool));
    // The number that the lost record had is not given again.
    let (spool, torn) = open(folder.path());
    assert!(torn.is_some());
    spool.append(&[payload("three")]).unwrap();
    assert!(spool.usage().last > last);
}

#[test]
fn many_threads_write_together_and_each_keeps_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(folder.path(), 64 << 20).unwrap();
    thread::scope(|scope| {
        for name in 0..8 {
            let spool = &spool;
            scope.spawn(move || {
                for number in 0..50 {
                    spool.append(&[payload(format!("{name} {number:03}"))]).unwrap();
                }
            });
        }
    });
    let all = texts(&spool, "a");
    assert_eq!(all.len(), 400);
    for name in 0..8 {
        let prefix = format!("{name} ");
        assert!(all.iter().filter(|text| text.starts_with(&prefix)).is_sorted());
    }
}

#[test]
fn a_removed_sink_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = open(folder.path());
    spool.keep_sinks(&["a", "b"]).unwrap();
    for _ in 0..100 {
        spool.append(&[vec![b'x'; 4000]]).unwrap();
    }
    let full = spool.usage();
    spool.acknowledge("a", full.last).unwrap();
    spool.keep_sinks(&["a"]).unwrap();
    assert!(spool.usage().bytes < full.bytes);
    assert!(cursor::load(folder.path()).unwrap().contains_key("a"));
}
