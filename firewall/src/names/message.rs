//! Questions to a DNS server, and its answers (RFC 1035, 3596).
//!
//! *Does*: writes a question for a name's addresses, and reads the addresses and the lowest TTL out of an answer. *Trusts*: nothing of a
//! length or a count. That the answer's records are about the name that was asked for is the server's word, as any address in them is.
//! *Never*: reads past the end, follows a compressed name, or takes more than [`MAX_ADDRESSES`].
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{MAX_ADDRESSES, Question, address};
use lynceus_policy::Family;
use std::collections::BTreeSet;
use std::net::IpAddr;
use thiserror::Error;

/// Bytes of a header, RFC 1035 section 4.1.1.
const HEADER_BYTES: usize = 12;
/// QR, and TC.
const IS_ANSWER: u16 = 0x8000;
const IS_CUT: u16 = 0x0200;
/// RD: the server shall ask others.
const RECURSE: u16 = 0x0100;
/// CLASS IN.
const INTERNET: u16 = 1;
/// RCODE 3, NXDOMAIN.
const NO_SUCH_NAME: u16 = 3;
const CNAME: u16 = 5;
/// Whoever answers that there is nothing is asked again after a minute: what RFC 2308 derives from the zone is not read.
const NOTHING_TTL_S: u32 = 60;

/// What a server says of a name's addresses.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Answer {
    /// Those that can be another machine's.
    pub addresses: BTreeSet<IpAddr>,
    /// The lowest TTL of all records, as it was sent.
    pub ttl_s: u32,
    /// How many were left out: no machine elsewhere can have them, or there were too many.
    pub left_out: usize,
}

/// A message that a server sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// An answer, which may be that there is nothing.
    Answer(Answer),
    /// The answer did not fit: it is to be asked for over TCP.
    Cut,
    /// The server cannot or will not: RCODE.
    Refused(u16),
}

/// A message that is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Wrong {
    /// It answers something else: it may be forged, or late, and the right one may still come.
    #[error("it answers another question")]
    NotOurs,
    /// It ends too early.
    #[error("it is damaged")]
    Damaged,
}

fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => 1,
        Family::V6 => 28,
    }
}

/// The question as it is sent.
pub fn question(id: u16, question: &Question) -> Vec<u8> {
    let mut message: Vec<u8> = [id, RECURSE, 1, 0, 0, 0].into_iter().flat_map(u16::to_be_bytes).collect();
    message.extend(asked(question));
    message
}

/// The question's own section.
fn asked(question: &Question) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in question.name.split('.') {
        // The policy's reader has seen to it that a label has 1 to 63 bytes.
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind(question.family).to_be_bytes());
    bytes.extend(INTERNET.to_be_bytes());
    bytes
}

/// Reads what came for a question.
pub fn read(id: u16, question: &Question, bytes: &[u8]) -> Result<Reply, Wrong> {
    let mut rest = Rest(bytes);
    let header: Vec<u16> = (0..HEADER_BYTES / 2).map_while(|_| rest.half().ok()).collect();
    let [is_for, flags, 1, answers, _, _] = *header else { return Err(Wrong::NotOurs) };
    let asked = asked(question);
    let echo = rest.take(asked.len()).map_err(|_| Wrong::NotOurs)?;
    if is_for != id || flags & IS_ANSWER == 0 || !echo.eq_ignore_ascii_case(&asked) {
        return Err(Wrong::NotOurs);
    }
    if flags & IS_CUT != 0 {
        return Ok(Reply::Cut);
    }
    match flags & 0xf {
        0 | NO_SUCH_NAME => records(rest, answers, question.family).map(Reply::Answer),
        code => Ok(Reply::Refused(code)),
    }
}

fn records(mut rest: Rest<'_>, count: u16, family: Family) -> Result<Answer, Wrong> {
    let (mut answer, mut lowest) = (Answer::default(), None::<u32>);
    for _ in 0..count {
        rest.skip_name()?;
        let (of_kind, class) = (rest.half()?, rest.half()?);
        let ttl = rest.word()?;
        let len = rest.half()?;
        let data = rest.take(len.into())?;
        if class != INTERNET || (of_kind != kind(family) && of_kind != CNAME) {
            continue;
        }
        // RFC 2181 section 8: one with the highest bit set is none.
        let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
        lowest = Some(lowest.map_or(ttl, |lowest| lowest.min(ttl)));
        if of_kind == CNAME {
            continue;
        }
        let found = match family {
            Family::V4 => <[u8; 4]>::try_from(data).map(IpAddr::from),
            Family::V6 => <[u8; 16]>::try_from(data).map(IpAddr::from),
        };
        let found = found.map_err(|_| Wrong::Damaged)?;
        if answer.addresses.len() < MAX_ADDRESSES && !address::is_nobodys(found) {
            answer.addresses.insert(found);
        } else if !answer.addresses.contains(&found) {
            answer.left_out = answer.left_out.saturating_add(1);
        }
    }
    let has_none = answer.addresses.is_empty() && answer.left_out == 0;
    answer.ttl_s = lowest.filter(|_| !has_none).unwrap_or(NOTHING_TTL_S);
    Ok(answer)
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Wrong::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Wrong> {
        self.take(1)?.first().copied().ok_or(Wrong::Damaged)
    }

    fn half(&mut self) -> Result<u16, Wrong> {
        Ok(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn word(&mut self) -> Result<u32, Wrong> {
        Ok(u32::from_be_bytes([self.byte()?, self.byte()?, self.byte()?, self.byte()?]))
    }

    /// A name, or the pointer to the rest of one: it ends there.
    fn skip_name(&mut self) -> Result<(), Wrong> {
        loop {
            match self.byte()? {
                0 => return Ok(()),
                len @ 1..=63 => drop(self.take(len.into())?),
                192.. => return self.byte().map(drop),
                _ => return Err(Wrong::Damaged),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn v4() -> Question {
        Question { name: "deb.debian.org".to_owned(), family: Family::V4 }
    }

    /// An answer to it with these records: kind, TTL, data.
    fn reply(question: &Question, flags: u16, records: &[(u16, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = super::question(7, question);
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        for (kind, ttl, data) in records {
            bytes.extend([0xc0, 12]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(ttl.to_be_bytes());
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(*data);
        }
        bytes
    }

    fn answer(records: &[(u16, u32, &[u8])]) -> Answer {
        match read(7, &v4(), &reply(&v4(), 0x8180, records)) {
            Ok(Reply::Answer(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_lowest_ttl_of_the_way_to_an_address_is_its_own() {
        let found =
            answer(&[(5, 30, b"\x03abc\xc0\x10"), (1, 300, &[192, 0, 2, 1]), (1, 300, &[192, 0, 2, 2])]);
        let addresses = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap()).into();
        assert_eq!(found, Answer { addresses, ttl_s: 30, left_out: 0 });
        // Of another kind than was asked for.
        assert_eq!(answer(&[(28, 5, &[0; 16]), (1, 60, &[192, 0, 2, 1])]).ttl_s, 60);
        assert_eq!(answer(&[(1, u32::MAX, &[192, 0, 2, 1])]).ttl_s, 0);
        assert_eq!(answer(&[]), Answer { ttl_s: NOTHING_TTL_S, ..Answer::default() });
    }

    #[test]
    fn what_no_machine_elsewhere_can_have_and_what_is_too_much_is_left_out() {
        let found = answer(&[(1, 9, &[127, 0, 0, 1]), (1, 9, &[169, 254, 169, 254]), (1, 9, &[10, 0, 0, 1])]);
        assert_eq!((found.addresses.len(), found.left_out, found.ttl_s), (1, 2, 9));
        let all: Vec<[u8; 4]> = (0..500u16).map(|n| [203, 0, (n >> 8) as u8, n as u8]).collect();
        let records: Vec<(u16, u32, &[u8])> = all.iter().map(|data| (1, 1, &data[..])).collect();
        let found = answer(&records);
        assert_eq!((found.addresses.len(), found.left_out), (MAX_ADDRESSES, 500 - MAX_ADDRESSES));
    }

    #[test]
    fn another_question_s_answer_is_none() {
        let good = reply(&v4(), 0x8180, &[]);
        assert_eq!(read(8, &v4(), &good), Err(Wrong::NotOurs));
        let v6 = Question { family: Family::V6, ..v4() };
        assert_eq!(read(7, &v6, &good), Err(Wrong::NotOurs));
        assert_eq!(
            read(7, &Question { name: "deb.debian.com".to_owned(), ..v4() }, &good),
            Err(Wrong::NotOurs)
        );
        // The question itself, sent back.
        assert_eq!(read(7, &v4(), &question(7, &v4())), Err(Wrong::NotOurs));
        assert_eq!(read(7, &v4(), &reply(&v4(), 0x8380, &[])), Ok(Reply::Cut));
        assert_eq!(read(7, &v4(), &reply(&v4(), 0x8182, &[])), Ok(Reply::Refused(2)));
        assert!(matches!(read(7, &v4(), &reply(&v4(), 0x8183, &[])), Ok(Reply::Answer(_))));
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let whole = reply(&v4(), 0x8180, &[(5, 30, b"\x03abc\xc0\x10"), (1, 300, &[192, 0, 2, 1])]);
        for end in 0..whole.len() {
            assert!(read(7, &v4(), &whole[..end]).is_err(), "{end}");
        }
        // An address of five bytes.
        assert_eq!(read(7, &v4(), &reply(&v4(), 0x8180, &[(1, 9, &[0; 5])])), Err(Wrong::Damaged));
    }
}
